//! What must hold for any conversation, any cut of the input and any order of events.

use crate::notation::{Writer, view};
use crate::relay::{Harmless, Random, Relay, routing};
use crate::script::{Item, Script, count, item, script};
use pglagoon::config::{PoolMode, Unnamed};
use pglagoon::prepared::Registry;
use pglagoon::routing::scope::Scopes;
use pglagoon::routing::{Lsn, Role, Token};
use pglagoon::session::pin::PinRoom;
use pglagoon::session::{Edit, Edits, Held, Own, Sequences, ServerState, Session, Settings, Want, World};
use pglagoon::sql::Cache;
use proptest::prelude::*;
use std::time::Instant;

/// Plays scripts, each by a client of its own, on shared servers; answers what each client saw.
pub fn play(relay: &mut Relay, scripts: &[Script], random: &mut Random) -> Vec<Vec<u8>> {
    let clients: Vec<usize> = scripts
        .iter()
        .enumerate()
        .map(|(n, script)| relay.connect(&format!("c{n}"), &script.startup))
        .collect();
    let mut next = vec![0; scripts.len()];
    let mut idle = 0;
    loop {
        let mut sent = false;
        for (n, &client) in clients.iter().enumerate() {
            if next[n] > scripts[n].bursts.len() {
                continue;
            }
            let may_send = next[n] == 0
                || count(&relay.clients[client].view) >= scripts[n].bursts[next[n] - 1].then_seen;
            if next[n] < scripts[n].bursts.len() && may_send && !random.one_in(3) {
                relay.clients[client].network.extend_from_slice(&scripts[n].bursts[next[n]].bytes);
                next[n] += 1;
                sent = true;
            } else if next[n] == scripts[n].bursts.len()
                && relay.clients[client].closed.is_none()
                && count(&relay.clients[client].view) >= scripts[n].view.len()
            {
                relay.clients[client].network.extend(crate::notation::frontend("Terminate"));
                next[n] += 1;
                sent = true;
            }
        }
        let moved = relay.step(random);
        idle = if moved || sent { 0 } else { idle + 1 };
        if idle > 40 {
            return clients.iter().map(|&client| relay.clients[client].view.clone()).collect();
        }
    }
}

fn assert_same(script: &Script, seen: &[u8], relay: &Relay) {
    let seen = view(seen);
    if seen != script.view {
        let at = seen.iter().zip(&script.view).take_while(|(a, b)| a == b).count();
        let bursts: Vec<&str> = script.bursts.iter().map(|burst| burst.words.as_str()).collect();
        panic!(
            "differs at {at}\n sent {bursts:#?}\n own  {:#?}\n here {:#?}\n trace {}",
            &script.view[at.saturating_sub(2)..],
            &seen[at.saturating_sub(2)..],
            relay.told()
        );
    }
}

/// What a client does, each step from a seed of its own so that a failing script can be shortened.
type Steps = Vec<(u64, bool)>;

fn steps(most: usize) -> impl Strategy<Value = Steps> {
    proptest::collection::vec(any::<(u64, bool)>(), 1..most)
}

fn startup(random: &mut Random) -> Vec<(String, String)> {
    let all = [("application_name", "app"), ("timezone", "Europe/Rome"), ("work_mem", "6MB")];
    let some = all.into_iter().filter(|_| random.one_in(3));
    some.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn compare(steps: &[Steps], seed: u64, mode: PoolMode, primaries: usize, replicas: usize) {
    let mut random = Random(seed);
    let scripts: Vec<Script> = steps
        .iter()
        .enumerate()
        .map(|(n, steps)| {
            let items: Vec<(Item, bool)> =
                steps.iter().map(|&(seed, waits)| (item(&mut Random(seed)), waits)).collect();
            script(&items, startup(&mut random), &format!("s{n}"))
        })
        .collect();
    let mut relay = Relay::new(mode, primaries, replicas, 1 + random.below(3));
    relay.trace = Some(Default::default());
    let seen = play(&mut relay, &scripts, &mut random);
    for (script, seen) in scripts.iter().zip(&seen) {
        assert_same(script, seen, &relay);
    }
    assert_eq!(relay.database.writes_on_replicas, [""; 0]);
    relay.assert_nothing_leaked();
}

/// Whose input arrives in pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Nobody,
    Client,
    Both,
}

/// Plays one script burst by burst: what the server was sent, and what the client was.
fn play_in_order(steps: &Steps, seed: u64, cut: Cut, unnamed: Unnamed) -> (Vec<u8>, Vec<u8>) {
    let items: Vec<(Item, bool)> =
        steps.iter().map(|&(seed, waits)| (item(&mut Random(seed)), waits)).collect();
    let script = script(&items, startup(&mut Random(seed)), "s");
    let mut relay = Relay::new(PoolMode::Transaction, 1, 0, 2);
    relay.unnamed = unnamed;
    let client = relay.connect("a", &script.startup);
    let mut random = Random(seed);
    let mut most = |is_cut: bool| if is_cut { 1 + random.below(9) } else { usize::MAX };
    for burst in &script.bursts {
        relay.clients[client].network.extend_from_slice(&burst.bytes);
        while !relay.clients[client].network.is_empty() {
            relay.arrive(client, most(cut != Cut::Nobody));
        }
        loop {
            if relay.clients[client].waiting.is_some() {
                relay.grant(client, 0);
            }
            relay.deliver(0, usize::MAX);
            if !relay.has_answers(0) {
                break;
            }
            while relay.has_answers(0) {
                relay.answer(0, most(cut == Cut::Both));
                if relay.clients[client].waiting.is_some() {
                    relay.grant(client, 0);
                }
            }
        }
    }
    (std::mem::take(&mut relay.servers[0].wire), std::mem::take(&mut relay.clients[client].view))
}

/// A conversation with some bytes changed, lost, or made up.
fn spoil(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next() as u8),
            2 if at < bytes.len() => bytes[at] = random.next() as u8,
            _ => bytes.extend((0..random.below(30)).map(|_| random.next() as u8)),
        }
    }
    bytes
}

/// Neither side keeps to the protocol. What is checked is that nothing panics, and that nothing is made up: output and
/// memory stay in proportion to the input.
fn listen_to_nonsense(steps: &Steps, seed: u64, mode: PoolMode) {
    let mut random = Random(seed);
    let items: Vec<(Item, bool)> =
        steps.iter().map(|&(seed, waits)| (item(&mut Random(seed)), waits)).collect();
    let script = script(&items, Vec::new(), "s");
    let (mut classifier, mut registry) = (Cache::new(100, [1; 16]), Registry::new(100, [2; 16]));
    let mut session = Session::new(mode, Settings::default(), Own::default());
    let mut state = ServerState::new(2);
    let (mut edits, mut is_held) = (Edits::default(), false);
    let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
    let sent: Vec<u8> = script.bursts.iter().flat_map(|burst| burst.bytes.clone()).collect();
    let mut to_come = [spoil(sent, &mut random), spoil(backend_nonsense(&mut random), &mut random)];
    let rules = routing();
    for _ in 0..200 {
        let side = random.below(2);
        let count = random.below(to_come[side].len().min(300) + 1);
        let bytes: Vec<u8> = to_come[side].drain(..count).collect();
        let now = Instant::now();
        let want = match side {
            0 => {
                from_client.extend(bytes);
                let mut world = World {
                    now,
                    rules: &rules,
                    level: rules.consistency,
                    lineage: None,
                    servers: &(),
                    scopes: &Scopes::default(),
                    secret: b"secret",
                    catalog: &Harmless,
                    generation: 0,
                    classifier: &mut classifier,
                    registry: &mut registry,
                    max_message: 10_000,
                    client: 1,
                    pin_room: PinRoom::Open,
                    sequences: Sequences::Unused,
                    unnamed: Unnamed::Keep,
                };
                let held = is_held.then_some(Held { role: Role::Primary, node: 0, state: &mut state });
                let want = session.on_client(&from_client, held, &mut world, &mut edits);
                from_client.drain(..edits.consumed());
                want
            }
            _ if !is_held => continue,
            _ => {
                from_server.extend(bytes);
                let mut held = Held { role: Role::Primary, node: 0, state: &mut state };
                let want = session.on_backend(&from_server, &mut held, &mut registry, now, &mut edits);
                from_server.drain(..edits.consumed());
                want
            }
        };
        let made: usize =
            edits.iter().map(|edit| if let Edit::Insert(bytes) = edit { bytes.len() } else { 0 }).sum();
        assert!(made + edits.reply.len() < 200_000, "{made} bytes were made up");
        match want {
            Want::Lease(_) => {
                is_held = true;
                session.on_leased();
            }
            Want::Listen(channel) => session.on_listening(channel),
            Want::Tell(_) => session.on_told(),
            Want::Position(_) => session.on_position(Ok(POSITION)),
            Want::Return => is_held = false,
            Want::Replay(_) => {
                is_held = false;
                let _ = session.again();
            }
            Want::Close(_) => return,
            Want::Input | Want::Whole(_) => {}
        }
        let _ = session.owed();
    }
    let _ = session.on_server_lost("gone", &mut edits);
}

const POSITION: Token = Token { system: 1, timeline: 1, position: Lsn(1) };

fn backend_nonsense(random: &mut Random) -> Vec<u8> {
    let tags = b"12CDEGHINSTVZcdnstAK";
    let mut out = Vec::new();
    for _ in 0..random.below(40) {
        let body: &[u8] = match random.below(4) {
            0 => b"I",
            1 => b"SERROR\0C22012\0Mno\0\0",
            2 => b"ROLLBACK\0",
            _ => b"T",
        };
        out.message(tags[random.below(tags.len())], |out| out.extend_from_slice(body));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_cut_of_the_input_changes_the_output(steps in steps(10), seed: u64) {
        let whole = play_in_order(&steps, seed, Cut::Nobody, Unnamed::Forward);
        prop_assert_eq!(play_in_order(&steps, seed, Cut::Client, Unnamed::Forward), whole.clone());
        // When an answer arrives decides whether what waits on it goes out or has become void; the client sees no difference.
        prop_assert_eq!(play_in_order(&steps, seed, Cut::Both, Unnamed::Forward).1, whole.1.clone());
        // Nor does it when unnamed statements are kept.
        prop_assert_eq!(play_in_order(&steps, seed, Cut::Nobody, Unnamed::Keep).1, whole.1.clone());
        prop_assert_eq!(play_in_order(&steps, seed, Cut::Both, Unnamed::Keep).1, whole.1);
    }

    #[test]
    fn nonsense_from_either_side_harms_nobody(steps in steps(8), seed: u64) {
        for mode in [PoolMode::Transaction, PoolMode::Session, PoolMode::Statement] {
            listen_to_nonsense(&steps, seed, mode);
        }
    }

    #[test]
    fn one_client_sees_what_it_would_see_alone(steps in steps(12), seed: u64) {
        compare(&[steps], seed, PoolMode::Transaction, 1, 1);
    }

    #[test]
    fn clients_that_share_servers_do_not_see_each_other(
        steps in proptest::collection::vec(steps(10), 1..5),
        seed: u64,
    ) {
        compare(&steps, seed, PoolMode::Transaction, 2, 1);
    }

    #[test]
    fn session_mode_changes_nothing(steps in proptest::collection::vec(steps(10), 1..4), seed: u64) {
        compare(&steps, seed, PoolMode::Session, 2, 0);
    }
}
