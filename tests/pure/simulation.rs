//! Many clients, few servers, and everything that can go wrong, at times that a seed determines.
//!
//! A failing seed is printed; `SEED=n cargo test --test pure simulation` plays it alone, `SEEDS=n` plays more of them.

use crate::notation::{frontend, messages, view};
use crate::relay::{Random, Relay};
use crate::script::{Item, Script, count, item, script};
use pglagoon::config::{Consistency, PoolMode, Transactions};
use std::time::Duration;

const SEEDS: u64 = 30;
const STEPS: usize = 3_000;
const CLIENTS: usize = 8;

struct Player {
    client: usize,
    script: Script,
    next: usize,
    /// It lost a server or was refused one: its conversation is no longer the one that the script foresees.
    is_disturbed: bool,
}

#[test]
fn nothing_leaks_whatever_dies() {
    let alone = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let count = std::env::var("SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    let seeds = alone.map_or(0..count, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(seed));
        assert!(played.is_ok(), "SEED={seed}");
    }
}

fn play(seed: u64) {
    let mut random = Random(seed);
    let mode = [PoolMode::Transaction, PoolMode::Transaction, PoolMode::Session][random.below(3)];
    let mut relay = Relay::new(mode, 3, 2, 1 + random.below(4));
    if std::env::var_os("SEED").is_some() {
        relay.trace = Some(Default::default());
    }
    relay.rules.consistency =
        [Consistency::Sticky, Consistency::Eventual, Consistency::Primary][random.below(3)];
    relay.rules.transactions = [Transactions::Primary, Transactions::Promote][random.below(2)];
    let mut players: Vec<Player> = (0..CLIENTS).map(|_| join(&mut relay, &mut random)).collect();
    for _ in 0..STEPS {
        if random.one_in(50) {
            relay.clock += Duration::from_millis(random.below(3_000) as u64);
        }
        mishap(&mut relay, &mut players, &mut random);
        let n = random.below(players.len());
        if let Some(left) = act(&mut relay, &mut players[n], &mut random) {
            check(&relay, &left);
            players[n] = join(&mut relay, &mut random);
        }
        relay.step(&mut random);
    }
    while relay.step(&mut random) {}
    for player in &players {
        check(&relay, player);
        relay.kill_client(player.client);
    }
    while relay.step(&mut random) {}
    relay.assert_nothing_leaked();
    assert_eq!(relay.database.writes_on_replicas, [""; 0]);
}

fn join(relay: &mut Relay, random: &mut Random) -> Player {
    let items: Vec<(Item, bool)> =
        (0..1 + random.below(10)).map(|_| (item(random), random.one_in(2))).collect();
    let all = [("application_name", "sim"), ("timezone", "Europe/Rome"), ("work_mem", "6MB")];
    let startup = all.into_iter().filter(|_| random.one_in(3));
    let startup = startup.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mark = format!("s{}", relay.clients.len());
    let script = script(&items, startup, &mark);
    Player { client: relay.connect(&mark, &script.startup), script, next: 0, is_disturbed: false }
}

/// The client does the next thing. Answers it if it has left.
fn act(relay: &mut Relay, player: &mut Player, random: &mut Random) -> Option<Player> {
    let it = &mut relay.clients[player.client];
    if it.closed.is_some() {
        let script = player.script.clone();
        return Some(Player { script, ..*player });
    }
    let seen = count(&it.view);
    // Without the answer that it awaits it cannot tell whether COPY data are wanted.
    let is_lost =
        player.is_disturbed && player.script.bursts.iter().any(|burst| burst.words.contains("copy t from"));
    match player.script.bursts.get(player.next) {
        _ if is_lost && random.one_in(20) => relay.kill_client(player.client),
        _ if is_lost => {}
        Some(burst) => {
            let burst = burst.clone();
            if player.next == 0 || seen >= player.script.bursts[player.next - 1].then_seen {
                it.network.extend_from_slice(&burst.bytes);
                player.next += 1;
            } else if player.is_disturbed && random.one_in(20) {
                player.next += 1;
                it.network.extend_from_slice(&burst.bytes);
            }
        }
        None if seen >= player.script.view.len() || (player.is_disturbed && random.one_in(20)) => {
            it.network.extend(frontend("Terminate"));
        }
        None => {}
    }
    None
}

fn mishap(relay: &mut Relay, players: &mut [Player], random: &mut Random) {
    let mut disturb = |client: Option<usize>| {
        for player in players.iter_mut().filter(|player| Some(player.client) == client) {
            player.is_disturbed = true;
        }
    };
    match random.below(400) {
        0 => {
            let server = random.below(relay.servers.len());
            disturb(relay.kill_server(server));
        }
        1 => {
            let client = random.below(relay.clients.len());
            relay.kill_client(client);
        }
        // Nobody may notice: it counts as no disturbance.
        3..=12 => {
            let client = random.below(relay.clients.len());
            relay.hand_over(client);
        }
        13..=15 => relay.reload([PoolMode::Transaction, PoolMode::Session][random.below(2)]),
        2 => {
            let waiting = (0..relay.clients.len()).find(|&n| relay.clients[n].waiting.is_some());
            if let Some(client) = waiting {
                disturb(Some(client));
                relay.refuse(client);
            }
        }
        _ => {}
    }
}

/// What a client has seen is its own, and, if nothing went wrong, what it would have seen alone.
fn check(relay: &Relay, player: &Player) {
    let it = &relay.clients[player.client];
    let (all, read) = messages(&it.view);
    for (tag, body) in &all {
        let text = String::from_utf8_lossy(body);
        if let (b'D', Some(at)) = (*tag, text.find('s')) {
            let is_own = text[at..].starts_with(&format!("{}.", it.name));
            assert!(
                is_own || !text[at + 1..].starts_with(|c: char| c.is_ascii_digit()),
                "{} reads {text}",
                it.name
            );
        }
    }
    if !player.is_disturbed && read == it.view.len() {
        let seen = view(&it.view);
        // A block that has moved has left the portals behind that it had run to their end.
        let moved = relay.rules.transactions == Transactions::Promote;
        if moved && seen.iter().any(|message| message.starts_with("Error 34000")) {
            return;
        }
        let expected = &player.script.view[..seen.len().min(player.script.view.len())];
        assert_eq!(seen, expected, "{}{}", it.name, relay.told());
    }
}
