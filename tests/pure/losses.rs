//! A server that dies at every point of a conversation: the client stays in step, and what it is told is true.

use crate::notation::{field, frontend, messages};
use crate::relay::{Random, Relay};
use pglagoon::config::PoolMode;
use pglagoon::session::Farewell;

/// What a client sends after what has been answered before, and what of it writes.
struct Conversation {
    before: &'static str,
    under_fire: &'static str,
    /// Rows that its one transaction writes.
    rows: usize,
    /// The tag that acknowledges them.
    acknowledged: &'static str,
}

const fn of(
    before: &'static str,
    under_fire: &'static str,
    rows: usize,
    acknowledged: &'static str,
) -> Conversation {
    Conversation { before, under_fire, rows, acknowledged }
}

const INSERT: &str = "INSERT 0 1";

const CONVERSATIONS: [Conversation; 18] = [
    of("", "Query insert 1", 1, INSERT),
    of("", "Parse : insert 1 | Bind : | Execute | Sync", 1, INSERT),
    of("", "Query insert 1; insert 2", 2, INSERT),
    of("Query set work_mem to '2MB'", "Query select 1 | Query insert 1 | Query select 2", 1, INSERT),
    of("Query begin", "Query insert 1 | Query insert 2 | Query commit", 2, "COMMIT"),
    of("Query begin | Query insert 1", "Query insert 2 | Query commit | Query select 1", 2, "COMMIT"),
    of("Query begin | Query insert 1", "Query commit", 1, "COMMIT"),
    of("Query begin | Query insert 1", "Query insert 2 | Query rollback | Query select 1", 0, ""),
    of("Query begin | Query insert 1 | Query select 1/0", "Query select 1 | Query commit", 0, ""),
    of("Query begin | Query insert 1", "Query select 1/0 | Query insert 2 | Query commit", 0, ""),
    of("", "Query begin; insert 1; commit | Query select 1", 1, "COMMIT"),
    of("", "Query begin; insert 1 | Query insert 2 | Query commit", 2, "COMMIT"),
    of(
        "",
        "Parse : begin | Bind : | Execute | Parse : insert 1 | Bind : | Execute | Sync | \
         Parse : insert 2 | Bind : | Execute | Sync | Parse : commit | Bind : | Execute | Sync",
        2,
        "COMMIT",
    ),
    of(
        "Parse i: insert 1 | Parse c: commit | Sync | Query begin | Query insert 0",
        "Bind :i | Execute | Sync | Bind :c | Execute | Sync | Parse n: select 1 | Bind :n | Execute | Sync",
        2,
        "COMMIT",
    ),
    of("Query begin | Query insert 1", "FunctionCall | Query insert 2 | Query commit", 2, "COMMIT"),
    of("Query copy t from stdin", "CopyData x | CopyData y | CopyDone | Query select 1", 2, "COPY 2"),
    of(
        "Parse : copy t from stdin | Bind : | Execute | Flush",
        "CopyData x | CopyDone | Sync | Query select 1",
        1,
        "COPY 1",
    ),
    of("Query begin | Query copy t from stdin", "CopyData x | CopyDone | Query commit", 1, "COMMIT"),
];

/// How far things go before the server dies, in bytes: to it, and from it to the client.
#[derive(Debug, Clone, Copy)]
struct Cut {
    delivered: usize,
    answered: usize,
}

#[test]
fn what_a_client_is_told_of_a_loss_is_true_wherever_it_comes() {
    for (number, conversation) in CONVERSATIONS.iter().enumerate() {
        let all = Cut { delivered: usize::MAX, answered: usize::MAX };
        let whole = play(conversation, all, number as u64);
        let sent = whole.sent;
        // A server acts on whole messages only: what it has of the next one makes no difference.
        for delivered in sent {
            for answered in 0..=whole.received {
                let cut = Cut { delivered, answered };
                let played = std::panic::catch_unwind(|| {
                    play(conversation, cut, (delivered * 1000 + answered) as u64)
                });
                assert!(
                    played.is_ok(),
                    "{number}: {} // {} // {cut:?}",
                    conversation.before,
                    conversation.under_fire
                );
            }
        }
    }
}

struct Played {
    /// Where messages to the server ended.
    sent: Vec<usize>,
    /// Bytes from the server.
    received: usize,
}

fn play(conversation: &Conversation, cut: Cut, seed: u64) -> Played {
    let mut random = Random(seed);
    let mut relay = Relay::new(PoolMode::Transaction, 1, 0, 10);
    relay.trace = Some(Default::default());
    let client = relay.connect("a", &[]);
    for message in conversation.before.split(" | ").filter(|message| !message.is_empty()) {
        relay.clients[client].network.extend(frontend(message));
    }
    relay.settle();
    let before = relay.servers[0].wire.len();
    relay.clients[client].network.extend(frontend(conversation.under_fire));
    let received = until(&mut relay, client, 0, cut, &mut random);
    let sent = ends_of_messages(&relay.servers[0].wire[before..]);

    let committed = relay.servers[0].model.committed;
    relay.kill_server(0);
    relay.settle();
    judge(&mut relay, client, conversation, committed);
    Played { sent, received }
}

/// Where a server has whole messages of these bytes.
fn ends_of_messages(wire: &[u8]) -> Vec<usize> {
    let (whole, _) = messages(wire);
    let ends = whole.iter().scan(0, |at, (_, body)| {
        *at += body.len() + 5;
        Some(*at)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Everything happens up to the cut, with the client's bytes coming in any pieces. Answers how many bytes it was sent.
fn until(relay: &mut Relay, client: usize, server: usize, cut: Cut, random: &mut Random) -> usize {
    let (mut delivered, mut answered) = (0, 0);
    loop {
        let before = (relay.clients[client].network.len(), delivered, answered);
        let most = if random.one_in(3) { usize::MAX } else { 1 + random.below(30) };
        relay.arrive(client, most);
        if let Some(&server) = relay.candidates(client).first() {
            relay.grant(client, server);
        }
        delivered += relay.deliver(server, cut.delivered - delivered);
        let allowed = cut.answered - answered;
        if allowed > 0 && relay.has_answers(server) {
            answered += relay.answer(server, allowed);
        }
        if before == (relay.clients[client].network.len(), delivered, answered) {
            return answered;
        }
    }
}

fn judge(relay: &mut Relay, client: usize, conversation: &Conversation, committed: usize) {
    if relay.clients[client].closed == Some(Farewell::Abrupt) {
        let (_, read) = messages(&relay.clients[client].view);
        assert!(read < relay.clients[client].view.len(), "cut off between two messages{}", relay.told());
        return;
    }
    assert_eq!(relay.clients[client].closed, None, "{}", relay.told());
    // An application ends its transaction, and goes on.
    relay.clients[client].network.extend(frontend("Query rollback | Query select 'alive'"));
    relay.settle();
    let later = relay.servers[0].model.committed;
    let view = relay.clients[client].view.clone();
    let (seen, read) = messages(&view);
    assert_eq!(read, view.len());
    let told = relay.told();
    let tail: Vec<u8> = seen.iter().rev().take(4).map(|(tag, _)| *tag).collect();
    assert_eq!(tail, b"ZCDT", "{told}");
    assert_eq!(seen.last().map(|(_, body)| body[0]), Some(b'I'), "{told}");

    let asked = format!("{} | {} | Query | Query", conversation.before, conversation.under_fire);
    let ends = asked.split(" | ").map(|message| message.split(' ').next().unwrap());
    let ends = ends.filter(|word| ["Query", "Sync", "FunctionCall"].contains(word)).count();
    let ready = seen.iter().filter(|(tag, _)| *tag == b'Z').count();
    assert_eq!(ready, ends, "ReadyForQuery messages{told}");

    let codes: Vec<String> =
        seen.iter().filter(|(tag, _)| *tag == b'E').map(|(_, body)| field(body, b'C')).collect();
    assert!(codes.iter().all(|code| code != "57P01"), "{told}");
    let tags: Vec<String> = seen
        .iter()
        .filter(|(tag, _)| *tag == b'C')
        .map(|(_, body)| String::from_utf8_lossy(&body[..body.len() - 1]).into_owned())
        .collect();
    let is_acknowledged = tags.iter().any(|tag| tag == conversation.acknowledged);
    let is_unknown = codes.iter().any(|code| code == "08007");
    let kept = committed + later;
    assert!([0, conversation.rows].contains(&kept), "{kept} rows of one transaction{told}");
    match kept {
        0 => assert!(
            !is_acknowledged || is_unknown || conversation.rows == 0,
            "an acknowledged write was lost{told}"
        ),
        _ => assert!(is_acknowledged || is_unknown, "a write was called undone that was not{told}"),
    }
}

/// Reads that are sent without waiting, each or each batch a transaction of its own. The names are known before.
const PIPELINES: [&str; 6] = [
    "Query select 1 | Query select * from rows3 | Query select 'three'",
    "Bind :s | Execute | Sync | Bind :s | Execute | Sync | Bind :t | DescribeP | Execute 2 | Sync",
    "Parse : select 1 | Bind : | Execute | Bind : | Execute | Sync | Bind : | Execute | Sync | Query select 2",
    "Query select 1 | Parse u: select 'new' | DescribeS u | Sync | Bind :u | Execute | CloseS u | Sync | Bind :s | Execute | Sync",
    "Query select 1 | Query select 1/0 | Query select 2 | Bind :s | Execute | Parse : select 1/0 | Sync | Query select 3",
    "Query select 1; select 2 | Sync | Query | Query copy t to stdout | Query select 3",
];

const REPLICA: usize = 1;

#[test]
fn what_was_not_shown_of_pipelined_reads_runs_again_wherever_their_replica_dies() {
    for (number, under_fire) in PIPELINES.into_iter().enumerate() {
        let all = Cut { delivered: usize::MAX, answered: usize::MAX };
        let (whole, played) = pipeline(under_fire, all, number as u64);
        for delivered in played.sent {
            for answered in (0..=played.received).step_by(5) {
                let cut = Cut { delivered, answered };
                let again = std::panic::catch_unwind(|| {
                    let (view, _) = pipeline(under_fire, cut, (delivered * 1000 + answered) as u64);
                    compare(&view, &whole);
                });
                assert!(again.is_ok(), "{number}: {under_fire} // {cut:?}");
            }
        }
    }
}

/// What the client sees when the replica dies behind the cut, and goes on as another.
fn pipeline(under_fire: &str, cut: Cut, seed: u64) -> (Vec<u8>, Played) {
    let mut random = Random(seed);
    let mut relay = Relay::new(PoolMode::Transaction, 1, 1, 10);
    let client = relay.connect("a", &[]);
    relay.clients[client]
        .network
        .extend(frontend("Parse s: select 'named' | Parse t: select * from rows3 | Sync"));
    relay.settle();
    relay.clients[client].view.clear();
    let before = relay.servers[REPLICA].wire.len();
    relay.clients[client].network.extend(frontend(under_fire));
    let received = until(&mut relay, client, REPLICA, cut, &mut random);
    let sent = ends_of_messages(&relay.servers[REPLICA].wire[before..]);
    relay.kill_server(REPLICA);
    relay.settle();
    assert!(matches!(relay.clients[client].closed, None | Some(Farewell::Abrupt)));
    (relay.clients[client].view.clone(), Played { sent, received })
}

/// Every answer is what it would have been; but of one that was shown in part, which ends with an error or with the
/// connection.
fn compare(view: &[u8], whole: &[u8]) {
    let (seen, read) = answers(view);
    let (expected, _) = answers(whole);
    let mut broken = seen.iter().zip(&expected).filter(|(seen, expected)| seen != expected);
    if let Some((seen, expected)) = broken.next() {
        let error = seen.iter().position(|message| message.0 == b'E').expect("an error");
        assert_eq!(field(&seen[error].1, b'C'), "40001");
        assert!(error > 0 && seen[..error] == expected[..error], "nothing of it was shown");
    }
    assert_eq!(broken.next(), None);
    let is_cut = read < view.len();
    assert!(is_cut || seen.len() == expected.len(), "{} of {} answers", seen.len(), expected.len());
}

type Answer = Vec<(u8, Vec<u8>)>;

/// What stands up to each ReadyForQuery, and how many bytes that is.
fn answers(view: &[u8]) -> (Vec<Answer>, usize) {
    let (all, read) = messages(view);
    let mut answers: Vec<Answer> = all
        .split_inclusive(|(tag, _)| *tag == b'Z')
        .map(|answer| answer.iter().map(|(tag, body)| (*tag, body.to_vec())).collect())
        .collect();
    if answers.last().is_some_and(|last| last.last().is_none_or(|(tag, _)| *tag != b'Z')) {
        answers.pop();
    }
    (answers, read)
}
