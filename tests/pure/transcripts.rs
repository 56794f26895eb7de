//! Golden conversations, named after what went wrong in one pooler or another.
//!
//! `a> ...` is what client a sends at once; then everything that can happen happens, before the next line.
//! `p1>` went to a server on the primary, `r1>` to one on the replica, `a<` back to the client. `@1` is a name that
//! pglagoon made. `! kill p1`, `! stop p1`, `! go p1`, `! gone a`, `! refuse a`, `! gone listener`,
//! `! back listener`, `! wait 3s`, `! cancel p1` (its next Query) and `! alter elsewhere` (DDL that goes past
//! pglagoon) are events.

use crate::notation::{bind, frontend, messages};
use crate::relay::Relay;
use pglagoon::config::{Consistency, PoolMode, Transactions};
use pglagoon::session::settings::MAX_LENGTH;
use pglagoon::session::{Farewell, LOOKAHEAD, MAX_REMEMBERED, MAX_STATEMENT_BYTES};
use std::fmt::Write;
use std::time::Duration;

struct Stage {
    mode: PoolMode,
    primaries: usize,
    replicas: usize,
    statements: usize,
    startup: &'static [(&'static str, &'static str)],
    consistency: Consistency,
    transactions: Transactions,
}

const TRANSACTION: Stage = Stage {
    mode: PoolMode::Transaction,
    primaries: 1,
    replicas: 1,
    statements: 10,
    startup: &[],
    consistency: Consistency::Eventual,
    transactions: Transactions::Primary,
};
const PRIMARY_ONLY: Stage = Stage { replicas: 0, ..TRANSACTION };
const SESSION: Stage = Stage { mode: PoolMode::Session, primaries: 2, ..PRIMARY_ONLY };
const STATEMENT: Stage = Stage { mode: PoolMode::Statement, ..TRANSACTION };

impl Stage {
    /// Plays what the clients send, and compares the whole conversation.
    #[track_caller]
    fn plays(self, expected: &str) -> Relay {
        let expected: Vec<&str> =
            expected.lines().map(str::trim_end).filter(|line| !line.trim().is_empty()).collect();
        let indent = expected.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
        let expected: Vec<&str> = expected.into_iter().map(|line| &line[indent..]).collect();
        let mut relay = Relay::new(self.mode, self.primaries, self.replicas, self.statements);
        relay.rules.consistency = self.consistency;
        relay.rules.transactions = self.transactions;
        relay.trace = Some(Default::default());
        let startup: Vec<_> =
            self.startup.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        for line in expected.iter().filter(|line| !line.starts_with(' ')) {
            relay.trace.as_mut().unwrap().note((*line).to_owned());
            match line.split_once("> ") {
                Some((name, words)) => {
                    let client = relay.clients.iter().position(|client| client.name == name);
                    let client = client.unwrap_or_else(|| relay.connect(name, &startup));
                    relay.clients[client].network.extend(frontend(words));
                }
                None => event(&mut relay, line.strip_prefix("! ").expect("an event")),
            }
            relay.settle();
        }
        let mut played = String::new();
        for (place, words) in &relay.trace.as_ref().unwrap().lines {
            writeln!(played, "{place}{}", words.join(" | ")).unwrap();
        }
        let expected: String = expected.iter().map(|line| format!("{line}\n")).collect();
        assert!(played == expected, "played:\n{played}\nexpected:\n{expected}");
        relay
    }
}

fn event(relay: &mut Relay, words: &str) {
    let (verb, name) = words.split_once(' ').unwrap();
    let server = relay.servers.iter().position(|server| server.name == name);
    let client = relay.clients.iter().position(|client| client.name == name);
    match verb {
        "kill" => drop(relay.kill_server(server.unwrap())),
        "stop" => relay.servers[server.unwrap()].is_stuck = true,
        "cancel" => relay.servers[server.unwrap()].model.is_canceled = true,
        "go" => relay.servers[server.unwrap()].is_stuck = false,
        "gone" if name == "listener" => relay.has_listener = false,
        "back" => relay.has_listener = true,
        "gone" => relay.kill_client(client.unwrap()),
        "refuse" => relay.refuse(client.unwrap()),
        "alter" => relay.database.version += 1,
        "mode" => {
            let modes = [PoolMode::Session, PoolMode::Transaction, PoolMode::Statement];
            relay.reload(modes.into_iter().find(|mode| mode.as_str() == name).unwrap());
        }
        "wait" => relay.clock += Duration::from_secs(name.trim_end_matches('s').parse().unwrap()),
        _ => panic!("no such event: {words}"),
    }
}

// --- Pipelines, Sync, Flush, errors ------------------------------------------------------------------------------------

#[test]
fn server_released_after_the_first_of_pipelined_queries() {
    PRIMARY_ONLY.plays(
        "
        a> Query select 1 | Query select 2 | Query select 3
          p1> Query select 1 | Query select 2 | Query select 3
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I | RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I | RowDescription c | DataRow 3 | CommandComplete SELECT 1 | ReadyForQuery I
        b> Query select 4
          p1> Query select 4
          b< RowDescription c | DataRow 4 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn close_of_an_unknown_name_was_an_error() {
    PRIMARY_ONLY.plays(
        "
        a> CloseS nobody | CloseP nothing | Sync
          a< CloseComplete | CloseComplete | ReadyForQuery I
        a> Parse s: select 1 | CloseS nobody | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | CloseComplete | ReadyForQuery I
        ",
    );
}

#[test]
fn error_in_a_pipeline_answers_nothing_up_to_sync() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Parse : select * from missing | Parse t: select 1 | CloseS s | Bind : | Execute | Sync | Query select 2
          p1> Parse : select * from missing | Bind : | Execute | Sync | Query select 2
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery I | RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn fabricated_answer_overtook_the_servers() {
    PRIMARY_ONLY.plays(
        "
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Bind :s | Execute | Parse t: select 1 | CloseS s | Sync
          p1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ParseComplete | CloseComplete | ReadyForQuery I
        ",
    );
}

#[test]
fn flush_ended_the_ownership() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select * from rows3 | Bind : | Flush
          p1> Parse : select * from rows3 | Bind : | Flush
          a< ParseComplete | BindComplete
        b> Query select 1
        a> Execute 2 | Flush
          p1> Execute  2 | Flush
          a< DataRow 1 | DataRow 2 | PortalSuspended
        a> Execute 2 | Sync
          p1> Execute  2 | Sync
          a< DataRow 3 | CommandComplete SELECT 1 | ReadyForQuery I
          p1> Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn query_inside_a_batch_destroys_the_unnamed_statement() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select 1 | Query select 2 | Bind : | Sync
          p1> Parse : select 1 | Query select 2
          a< ParseComplete | RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
          p1> CloseS | Bind : | Sync
          a< Error 26000 unnamed prepared statement does not exist | ReadyForQuery I
        ",
    );
}

#[test]
fn unnamed_statement_was_lost_to_a_query_that_was_skipped_behind_a_function_call() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select 1 | DescribeS b | FunctionCall | Query select 2 | Sync
          p1> Parse : select 1 | DescribeS b | FunctionCall | Query select 2 | Sync
          a< ParseComplete | Error 26000 prepared statement \"b\" does not exist | ReadyForQuery I
        a> Bind : | Execute | Sync
          p1> Parse : select 1 | Bind : | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn unnamed_statement_was_lost_to_a_question_in_session_mode() {
    SESSION.plays(
        "
        a> Parse s: select set_config('work_mem', '1MB', false) | Parse : select 1 | Bind :s | Execute | Sync
          p1> Parse s: select set_config('work_mem', '1MB', false) | Parse : select 1 | Bind :s | Execute | Sync
          a< ParseComplete | ParseComplete | BindComplete | DataRow 1MB | CommandComplete SELECT 1 | ReadyForQuery I
          p1> Query SELECT pg_catalog.current_setting('work_mem', true)
        a> Bind : | Execute | Sync
          p1> Parse : select 1 | Bind : | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn write_was_kept_on_a_replica_by_a_listen_that_had_been_skipped_there() {
    TRANSACTION.plays(
        "
        a> Parse b: listen news | Bind :b | Execute | Sync
          a wants news, which is heard
          a< ParseComplete | BindComplete | CommandComplete LISTEN | ReadyForQuery I
        a> Parse b: select 1 | Bind :b | Execute | Sync | Query insert into t values (0)
          r1> CloseS b | Parse b: | Parse b: select 1 | Parse @1: listen news | Bind :@1 | Execute | Sync
          a< Error 42P05 prepared statement \"b\" already exists | ReadyForQuery I
          r1> CloseS b | Sync | Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
          p1> Query insert into t values (0)
          a< CommandComplete INSERT 0 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn query_skipped_behind_an_error_was_waited_for() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse : select * from missing | Query select 2 | Sync
          p1> Parse : select * from missing | Query select 2 | Sync
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery I
        b> Query select 3
          p1> Query select 3
          b< RowDescription c | DataRow 3 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn function_call_assumed_a_server() {
    TRANSACTION.plays(
        "
        a> FunctionCall
          p1> FunctionCall
          a< FunctionCallResponse | ReadyForQuery I
        a> FunctionCall | Query select 1
          p1> FunctionCall | Query select 1
          a< FunctionCallResponse | ReadyForQuery I | RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn suspended_and_empty_end_an_execute() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select * from rows3 | Bind : | Execute 2 | Execute 2 | Parse : | Bind : | Execute | Sync
          p1> Parse : select * from rows3 | Bind : | Execute  2 | Execute  2 | Parse : | Bind : | Execute | Sync
          a< ParseComplete | BindComplete | DataRow 1 | DataRow 2 | PortalSuspended | DataRow 3 | CommandComplete SELECT 1 | ParseComplete | BindComplete | EmptyQueryResponse | ReadyForQuery I
        a> Query
          p1> Query
          a< EmptyQueryResponse | ReadyForQuery I
        ",
    );
}

#[test]
fn client_that_only_says_goodbye_takes_no_server() {
    TRANSACTION.plays(
        "
        a> Terminate
          a said goodbye
        ",
    );
}

// --- COPY ---------------------------------------------------------------------------------------------------------------

#[test]
fn sync_behind_copy_in_was_counted() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : copy t from stdin | Bind : | Execute | Sync
          p1> Parse : copy t from stdin | Bind : | Execute | Sync
          a< ParseComplete | BindComplete | CopyInResponse
        a> CopyData line | Sync | Flush | CopyData line | CopyDone | Sync
          p1> CopyData line | Sync | Flush | CopyData line | CopyDone | Sync
          a< CommandComplete COPY 2 | ReadyForQuery I
        b> Query select 1
          p1> Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn copy_that_failed_is_still_fed() {
    PRIMARY_ONLY.plays(
        "
        a> Query copy t from stdin
          p1> Query copy t from stdin
          a< CopyInResponse
        a> CopyData dup
          p1> CopyData dup
          a< Error 23505 duplicate key value | ReadyForQuery I
        b> Query select 1
          p1> Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> CopyData line | CopyDone | Query select 2
          p1> Query select 2
          a< RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : copy t from stdin | Bind : | Execute | Flush
          p1> Parse : copy t from stdin | Bind : | Execute | Flush
          a< ParseComplete | BindComplete | CopyInResponse
        a> CopyData dup
          p1> CopyData dup
          a< Error 23505 duplicate key value
        a> CopyData line | CopyDone | Sync
          p1> Sync
          a< ReadyForQuery I
        ",
    );
}

#[test]
fn client_gives_the_copy_up() {
    PRIMARY_ONLY.plays(
        "
        a> Query copy t from stdin
          p1> Query copy t from stdin
          a< CopyInResponse
        a> CopyData line | CopyFail changed my mind
          p1> CopyData line | CopyFail changed my mind
          a< Error 57014 COPY from stdin failed | ReadyForQuery I
        a> Query copy t to stdout
          p1> Query copy t to stdout
          a< CopyOutResponse | CopyData line | CopyDone | CommandComplete COPY 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn client_died_in_copy_in() {
    PRIMARY_ONLY.plays(
        "
        a> Query copy t from stdin
          p1> Query copy t from stdin
          a< CopyInResponse
        a> CopyData line
          p1> CopyData line
        ! gone a
          a is gone
        b> Query select 1
          p1> Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

// --- Prepared statements ------------------------------------------------------------------------------------------------

#[test]
fn failed_parse_left_its_name() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse s: select * from missing | Sync
          p1> Parse @1: select * from missing | Sync
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery I
        a> Parse s: select 1 | Bind :s | Execute | Sync
          p1> Parse @2: select 1 | Bind :@2 | Execute | Sync
          a< ParseComplete | BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn eviction_inside_a_failing_batch() {
    Stage { statements: 1, ..PRIMARY_ONLY }.plays(
        r#"
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Bind :nobody | Parse t: select 2 | Sync
          p1> Bind :nobody | CloseS @1 | Parse @2: select 2 | Sync
          a< Error 26000 prepared statement "nobody" does not exist | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse t: select 2 | Sync
          p1> CloseS @1 | Parse @2: select 2 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> CloseS @2 | Parse @1: select 1 | Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn deallocate_all_took_a_statement_prepared_behind_it() {
    PRIMARY_ONLY.plays(
        "
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Parse : deallocate all | Bind : | Execute | Parse s: select 2 | Sync
          p1> Parse : deallocate all | Bind : | Execute | Flush
          a< ParseComplete | BindComplete | CommandComplete DEALLOCATE ALL
          p1> Parse @2: select 2 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :@2 | Execute | Sync
          a< BindComplete | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn discard_all_left_the_record_stale() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Query discard all
          p1> Query discard all
          a< CommandComplete DISCARD ALL | ReadyForQuery I
        b> Parse s: select 1 | Bind :s | Execute | Sync
          p1> Parse @1: select 1 | Bind :@1 | Execute | Sync
          b< ParseComplete | BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :s | Execute | Sync
          a< Error 26000 prepared statement "s" does not exist | ReadyForQuery I
        "#,
    );
}

#[test]
fn deallocate_by_the_clients_name() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse s: select 1 | Parse t: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ParseComplete | ReadyForQuery I
        a> Query deallocate t
          p1> CloseS t | Parse t: | Query deallocate t
          a< CommandComplete DEALLOCATE | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Bind :t | Execute | Sync
          p1> Bind :t | Execute | Sync
          a< Error 26000 prepared statement "t" does not exist | ReadyForQuery I
        a> Parse : deallocate s | Bind : | Execute | Sync
          p1> Parse : deallocate s | Bind : | CloseS s | Parse s: | Execute | Flush
          a< ParseComplete | BindComplete | CommandComplete DEALLOCATE
          p1> Sync
          a< ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :s | Execute | Sync
          a< Error 26000 prepared statement "s" does not exist | ReadyForQuery I
        a> Query deallocate s
          p1> Query deallocate s
          a< Error 26000 prepared statement "s" does not exist | ReadyForQuery I
        "#,
    );
}

#[test]
fn deallocate_in_an_aborted_transaction_left_its_stand_in() {
    PRIMARY_ONLY.plays(
        "
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Query begin | Query select 1/0 | Query deallocate s | Query rollback
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1/0
          a< RowDescription c | Error 22012 division by zero | ReadyForQuery E
          p1> Query deallocate s
          a< Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E
          p1> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        a> Query begin | Query select 1/0
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1/0
          a< RowDescription c | Error 22012 division by zero | ReadyForQuery E
        a> Parse r: rollback | Sync | Parse d: deallocate s | Sync
          p1> Parse @2: rollback | Sync
          a< ParseComplete | ReadyForQuery E
          p1> Parse @3: deallocate s | Sync
          a< Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E
        a> Query rollback
          p1> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn describe_of_a_portal_was_renamed() {
    PRIMARY_ONLY.plays(
        "
        a> Parse s: select 1 | Bind s:s | DescribeP s | DescribeS s | Execute s | CloseP s | Sync
          p1> Parse @1: select 1 | Bind s:@1 | DescribeP s | DescribeS @1 | Execute s | CloseP s | Sync
          a< ParseComplete | BindComplete | RowDescription c | ParameterDescription 0 | RowDescription c | DataRow 1 | CommandComplete SELECT 1 | CloseComplete | ReadyForQuery I
        ",
    );
}

#[test]
fn hidden_parse_that_fails_is_the_binds_error() {
    Stage { primaries: 2, ..PRIMARY_ONLY }.plays(
        "
        a> Parse s: select * from changing | Sync
          p1> Parse @1: select * from changing | Sync
          a< ParseComplete | ReadyForQuery I
        b> Query begin | Query select 1
          b< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query begin | Query select 1
          a< CommandComplete BEGIN | ReadyForQuery T
          p2> Query begin | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query select 1/0
          p2> Query select 1/0
          a< RowDescription c | Error 22012 division by zero | ReadyForQuery E
        a> Bind :s | Execute | Sync
          p2> Parse @1: select * from changing | Bind :@1 | Execute | Sync
          a< Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E
        a> Query rollback
          p2> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p2> Parse @1: select * from changing | Bind :@1 | Execute | Sync
          a< BindComplete | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn name_that_is_taken_aborts_the_transaction_in_the_servers_words() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Query begin | Query select 1
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Parse s: select 2 | Sync
          p1> CloseS s | Parse s: | Parse s: select 2 | Sync
          a< Error 42P05 prepared statement "s" already exists | ReadyForQuery E
        a> Query commit
          p1> Query commit
          a< CommandComplete ROLLBACK | ReadyForQuery I
          p1> CloseS s | Sync
        b> Parse s: select 3 | Bind :s | Execute | Sync
          p1> Parse @2: select 3 | Bind :@2 | Execute | Sync
          b< ParseComplete | BindComplete | DataRow 3 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn execute_finds_what_servers_have_under_another_name() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Query execute s
          p1> CloseS s | Parse s: select 1 | Query execute s | Sync
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
          p1> CloseS s | Sync
        b> Query execute s
          p1> Query execute s
          b< Error 26000 prepared statement "s" does not exist | ReadyForQuery I
        a> Query execute s; execute s
          p1> CloseS s | Parse s: select 1 | Query execute s; execute s | Sync
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
          p1> CloseS s | Sync
        a> Parse : execute s | Bind : | Execute | Sync
          p1> CloseS s | Parse s: select 1 | Parse : execute s | CloseS s | Parse s: select 1 | Bind : | CloseS s | Parse s: select 1 | Execute | Sync
          a< ParseComplete | BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
          p1> CloseS s | Sync
        "#,
    );
}

#[test]
fn parse_of_what_is_there_succeeded_in_an_aborted_transaction() {
    PRIMARY_ONLY.plays(
        "
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Query begin | Query select 1/0 | Parse t: select 1 | Sync
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1/0
          a< RowDescription c | Error 22012 division by zero | ReadyForQuery E
          p1> CloseS @1 | Parse @1: select 1 | Sync
          a< Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E
        a> Query rollback
          p1> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Parse @1: select 1 | Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn statement_that_was_judged_and_skipped_was_taken_for_the_next() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        a> Query begin | Query select 1
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Parse : select * from missing | Sync | Bind :nobody | Parse t: deallocate all | Sync | Query rollback
          p1> Parse : select * from missing | Sync | Bind :nobody
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery E | Error 26000 prepared statement "nobody" does not exist
          p1> Sync | Query rollback
          a< ReadyForQuery E | CommandComplete ROLLBACK | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn client_died_behind_a_query_that_may_be_skipped() {
    PRIMARY_ONLY.plays(
        "
        ! stop p1
        a> Bind :nobody | Query select 1
          p1> Bind :nobody | Query select 1
        ! gone a
          a is gone
        ! go p1
        b> Query select 2
          p1> Query select 2
          b< RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn unnamed_statement_of_another_client_was_visible() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select 1 | Sync
          p1> Parse : select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        b> Bind : | Execute | Sync
          p1> CloseS | Bind : | Execute | Sync
          b< Error 26000 unnamed prepared statement does not exist | ReadyForQuery I
        b> DescribeS | Sync
          p1> CloseS | DescribeS | Sync
          b< Error 26000 unnamed prepared statement does not exist | ReadyForQuery I
        a> Bind : | Execute | Sync
          p1> Parse : select 1 | Bind : | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn unnamed_statement_of_another_client_was_run_behind_an_error() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse : select 'mine' | Sync
          p1> Parse : select 'mine' | Sync
          a< ParseComplete | ReadyForQuery I
        b> Bind :nobody | Parse : select 'other' | Sync | Bind : | Execute | Sync
          p1> Bind :nobody | Parse : select 'other' | Sync
          b< Error 26000 prepared statement "nobody" does not exist | ReadyForQuery I
          p1> CloseS | Bind : | Execute | Sync
          b< Error 26000 unnamed prepared statement does not exist | ReadyForQuery I
        "#,
    );
}

#[test]
fn statements_are_shared_and_follow_their_client() {
    Stage { primaries: 2, ..PRIMARY_ONLY }.plays(
        "
        a> Parse s: select $1 | Bind :s one | Execute | Sync
          p1> Parse @1: select $1 | Bind :@1 one | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery I
        b> Parse t: select $1 | Bind :t two | Execute | Sync
          p1> Bind :@1 two | Execute | Sync
          b< ParseComplete | BindComplete | DataRow two | CommandComplete SELECT 1 | ReadyForQuery I
        b> Query begin | Query select 1
          b< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Bind :s three | Execute | Sync
          p2> Parse @1: select $1 | Bind :@1 three | Execute | Sync
          a< BindComplete | DataRow three | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn stale_plan_is_the_clients_to_prepare_anew() {
    PRIMARY_ONLY.plays(
        "
        a> Parse s: select * from changing | Bind :s | Execute | Sync
          p1> Parse @1: select * from changing | Bind :@1 | Execute | Sync
          a< ParseComplete | BindComplete | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        b> Query alter table changing add c int
          p1> Query alter table changing add c int
          b< CommandComplete ALTER TABLE | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :@1 | Execute | Sync
          a< Error 0A000 cached plan must not change result type | ReadyForQuery I
        a> Parse t: select * from changing | Bind :t | Execute | Sync
          p1> Parse @2: select * from changing | Bind :@2 | Execute | Sync
          a< ParseComplete | BindComplete | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn stale_plan_is_made_anew_where_the_client_is_told_its_columns() {
    PRIMARY_ONLY.plays(
        "
        a> Parse s: select * from changing | DescribeS s | Sync
          p1> Parse @1: select * from changing | DescribeS @1 | Sync
          a< ParseComplete | ParameterDescription 0 | RowDescription c0 | ReadyForQuery I
        b> Query alter table changing add c int
          p1> Query alter table changing add c int
          b< CommandComplete ALTER TABLE | ReadyForQuery I
        a> Bind :s | DescribeP | Execute | Sync
          p1> Bind :@1 | DescribeP | Execute | Sync | Parse @2: select * from changing | Bind :@2 | DescribeP | Execute | Sync
          a< BindComplete | RowDescription c0,c1 | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :@2 | Execute | Sync
          a< BindComplete | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : select * from changing | Sync
          p1> Parse : select * from changing | Sync
          a< ParseComplete | ReadyForQuery I
        b> Query alter table changing add d int
          p1> Query alter table changing add d int
          b< CommandComplete ALTER TABLE | ReadyForQuery I
        a> Bind : | DescribeP | Execute | Sync
          p1> Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          a< BindComplete | RowDescription c0,c1,c2 | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn bind_that_waited_for_a_rescued_parse_waited_for_ever() {
    TRANSACTION.plays(
        r#"
        ! stop r1
        a> Parse : select * from missing | Bind : | Execute | Sync
          r1> Parse : select * from missing | Bind : | Execute | Sync
        a> Bind : | Execute | Sync
        ! go r1
          p1> Parse : select * from missing | Bind : | Execute | Sync
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery I
          p1> CloseS | Bind : | Execute | Sync
          a< Error 26000 unnamed prepared statement does not exist | ReadyForQuery I
        "#,
    );
}

// --- Unnamed statements that servers keep -------------------------------------------------------------------------------

#[test]
fn unnamed_statement_that_comes_again_is_kept() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select $1 | Bind : one | Execute | Sync
          p1> Parse : select $1 | Bind : one | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery I
        b> Parse : select $1 | Bind : two | DescribeP | Execute | Sync
          p1> Parse @1: select $1 | Bind :@1 two | DescribeP | Execute | Sync
          b< ParseComplete | BindComplete | RowDescription c | DataRow two | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : select $1 | Bind : three | DescribeP | Execute | Sync
          p1> Bind :@1 three | DescribeP | Execute | Sync
          a< ParseComplete | BindComplete | RowDescription c | DataRow three | CommandComplete SELECT 1 | ReadyForQuery I
        c> Parse : select 2 | Bind : | Execute | Sync
          p1> Parse : select 2 | Bind : | Execute | Sync
          c< ParseComplete | BindComplete | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Bind : four | Execute | Sync
          p1> Parse : select $1 | Bind : four | Execute | Sync
          a< BindComplete | DataRow four | CommandComplete SELECT 1 | ReadyForQuery I
        a> Query select 5
          p1> Query select 5
          a< RowDescription c | DataRow 5 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Bind : six | Execute | Sync
          p1> CloseS | Bind : six | Execute | Sync
          a< Error 26000 unnamed prepared statement does not exist | ReadyForQuery I
        ",
    );
}

#[test]
fn unnamed_statement_goes_as_it_comes_where_it_could_not_run_again() {
    Stage { startup: &[("search_path", "mine")], ..PRIMARY_ONLY }.plays(
        "
        a> Parse : select $1 | Bind : one | Execute | Sync
          p1> Query SELECT pg_catalog.set_config('search_path','mine',false); | Parse : select $1 | Bind : one | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : select $1 | Bind : one | Execute | Sync
          p1> Parse : select $1 | Bind : one | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
    PRIMARY_ONLY.plays(
        "
        a> Parse : select $1 | Bind : one | Execute | Sync
          p1> Parse : select $1 | Bind : one | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : select $1 | DescribeS | Sync
          p1> Parse : select $1 | DescribeS | Sync
          a< ParseComplete | ParameterDescription 1 | RowDescription c | ReadyForQuery I
        a> Parse : select $1 | Bind : one | Flush
          p1> Parse : select $1 | Bind : one | Flush
          a< ParseComplete | BindComplete
        a> Sync
          p1> Sync
          a< ReadyForQuery I
        a> Parse : select $1 | Bind : one | Execute | Bind : two | Execute | Sync
          p1> Parse : select $1 | Bind : one | Execute | Bind : two | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | BindComplete | DataRow two | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : select $1 | Bind : one | Execute | Sync | Query select 2
          p1> Parse : select $1 | Bind : one | Execute | Sync | Query select 2
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery I | RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Query begin
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Parse : select $1 | Bind : one | Execute | Sync
          p1> Query begin | Parse : select $1 | Bind : one | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query commit
          p1> Query commit
          a< CommandComplete COMMIT | ReadyForQuery I
        ",
    );
}

#[test]
fn kept_statement_that_is_older_than_its_table_is_never_seen() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          p1> Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          a< ParseComplete | BindComplete | RowDescription c0 | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          p1> Parse @1: select * from changing | Bind :@1 | DescribeP | Execute | Sync
          a< ParseComplete | BindComplete | RowDescription c0 | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        ! alter elsewhere
        a> Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          p1> Bind :@1 | DescribeP | Execute | Sync | Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          a< ParseComplete | BindComplete | RowDescription c0,c1 | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        b> Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          p1> Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          b< ParseComplete | BindComplete | RowDescription c0,c1 | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        b> Parse : select * from changing | Bind : | DescribeP | Execute | Sync
          p1> Parse @2: select * from changing | Bind :@2 | DescribeP | Execute | Sync
          b< ParseComplete | BindComplete | RowDescription c0,c1 | DataRow changing | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn mistake_in_a_request_with_a_kept_statement_is_the_servers_to_tell_of_the_unnamed_one() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select $1 | Bind : one | Execute | Sync
          p1> Parse : select $1 | Bind : one | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : select $1 | Bind : | Execute | Sync
          p1> Parse @1: select $1 | Bind :@1 | Execute | Sync | Parse : select $1 | Bind : | Execute | Sync
          a< ParseComplete | Error 08P01 bind message supplies the wrong number of parameters | ReadyForQuery I
        a> Parse : select * from missing | Bind : | Execute | Sync
          p1> Parse : select * from missing | Bind : | Execute | Sync
          a< Error 42P01 relation \"missing\" does not exist | ReadyForQuery I
        a> Parse : select * from missing | Bind : | Execute | Sync
          p1> Parse @2: select * from missing | Bind :@2 | Execute | Sync | Parse : select * from missing | Bind : | Execute | Sync
          a< Error 42P01 relation \"missing\" does not exist | ReadyForQuery I
        a> Parse : select $1 | Bind : two | Execute | Sync
          p1> Bind :@1 two | Execute | Sync
          a< ParseComplete | BindComplete | DataRow two | CommandComplete SELECT 1 | ReadyForQuery I
        a> Bind : three | Execute | Sync
          p1> Parse : select $1 | Bind : three | Execute | Sync
          a< BindComplete | DataRow three | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn client_that_does_not_wait_for_answers_is_not_made_to() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : select $1 | Bind : one | Execute | Sync
          p1> Parse : select $1 | Bind : one | Execute | Sync
          a< ParseComplete | BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery I
        ! stop p1
        a> Parse : select $1 | Bind : two | Execute | Sync
          p1> Parse @1: select $1 | Bind :@1 two | Execute | Sync
        a> Parse : select $1 | Bind : three | Execute | Sync
        ! go p1
          a< ParseComplete | BindComplete | DataRow two | CommandComplete SELECT 1 | ReadyForQuery I
          p1> Parse : select $1 | Bind : three | Execute | Sync
          a< ParseComplete | BindComplete | DataRow three | CommandComplete SELECT 1 | ReadyForQuery I
        ! stop p1
        a> Parse : select $1 | Bind : four | Execute | Sync
          p1> Parse : select $1 | Bind : four | Execute | Sync
        a> Parse : select $1 | Bind : five | Execute | Sync
          p1> Parse : select $1 | Bind : five | Execute | Sync
        ! go p1
          a< ParseComplete | BindComplete | DataRow four | CommandComplete SELECT 1 | ReadyForQuery I | ParseComplete | BindComplete | DataRow five | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

// --- Transactions that read on a replica first ----------------------------------------------------------------------------

const PROMOTE: Stage = Stage { transactions: Transactions::Promote, ..TRANSACTION };

#[test]
fn block_moves_to_the_primary_with_its_first_write() {
    PROMOTE.plays(
        "
        a> Query begin
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Query select 1
          r1> Query begin | Query SHOW transaction_isolation | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query savepoint s
          r1> Query savepoint s
          a< CommandComplete SAVEPOINT | ReadyForQuery T
        a> Query select 1/0
          r1> Query select 1/0
          a< RowDescription c | Error 22012 division by zero | ReadyForQuery E
        a> Query rollback to s
          r1> Query rollback to s
          a< CommandComplete ROLLBACK | ReadyForQuery T
        a> Query insert
          r1> Query ROLLBACK
          p1> Query begin | Query savepoint s | Query rollback to s | Query insert
          a< CommandComplete INSERT 0 1 | ReadyForQuery T
        a> Query select 1
          p1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query commit
          p1> Query commit
          a< CommandComplete COMMIT | ReadyForQuery I
        a> Query begin
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Query select 1 | Query insert | Query commit
          r1> Query begin | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
          r1> Query ROLLBACK
          p1> Query begin | Query insert | Query commit
          a< CommandComplete INSERT 0 1 | ReadyForQuery T | CommandComplete COMMIT | ReadyForQuery I
        a> Query begin
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Query select 1 | Query commit
          r1> Query begin | Query select 1 | Query commit
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T | CommandComplete COMMIT | ReadyForQuery I
        ",
    );
}

#[test]
fn what_fails_after_the_move_is_not_taken_for_rolled_back() {
    PROMOTE.plays(
        "
        b> Parse x: insert | Bind :x | Execute | Sync
          p1> Parse @1: insert | Bind :@1 | Execute | Sync
          b< ParseComplete | BindComplete | CommandComplete INSERT 0 1 | ReadyForQuery I
        a> Query begin
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Query select 1
          r1> Query begin | Query SHOW transaction_isolation | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query discard all
          r1> Query ROLLBACK
          p1> Query begin | Query discard all
          a< Error 25001 DISCARD ALL cannot run inside a transaction block | ReadyForQuery E
        a> Sync
          p1> Sync
          a< ReadyForQuery E
        a> Query rollback
          p1> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        ",
    );
}

#[test]
fn block_that_moves_keeps_its_prepared_statements() {
    PROMOTE.plays(
        "
        a> Parse s: select $1 | Parse w: insert | Sync
          p1> Parse @1: select $1 | Parse @2: insert | Sync
          a< ParseComplete | ParseComplete | ReadyForQuery I
        a> Query begin
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Bind :s one | Execute | Sync | Bind :w | Execute | Sync | Bind :s two | Execute | Sync
          r1> Query begin | Query SHOW transaction_isolation | Parse @1: select $1 | Bind :@1 one | Execute | Sync
          a< BindComplete | DataRow one | CommandComplete SELECT 1 | ReadyForQuery T
          r1> Query ROLLBACK
          p1> Query begin | Bind :@2 | Execute | Sync | Bind :@1 two | Execute | Sync
          a< BindComplete | CommandComplete INSERT 0 1 | ReadyForQuery T | BindComplete | DataRow two | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query rollback
          p1> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        ",
    );
}

// --- Settings -----------------------------------------------------------------------------------------------------------

#[test]
fn settings_leaked_to_another_client() {
    PRIMARY_ONLY.plays(
        r#"
        a> Query set work_mem to '1MB'
          p1> Query set work_mem to '1MB'
          a< CommandComplete SET | ReadyForQuery I
        a> Query set timezone to 'Asia/Tokyo'
          p1> Query set timezone to 'Asia/Tokyo'
          a< CommandComplete SET | ParameterStatus TimeZone=Asia/Tokyo | ReadyForQuery I
        b> Query show work_mem
          p1> Query RESET "timezone";RESET "work_mem"; | Query show work_mem
          b< RowDescription c | DataRow 4MB | CommandComplete SHOW | ReadyForQuery I
        a> Query show work_mem | Query show timezone
          p1> Query SET TIME ZONE 'Asia/Tokyo';SET "work_mem" TO '1MB'; | Query show work_mem | Query show timezone
          a< RowDescription c | DataRow 1MB | CommandComplete SHOW | ReadyForQuery I | RowDescription c | DataRow Asia/Tokyo | CommandComplete SHOW | ReadyForQuery I
        b> Query set timezone to 'Asia/Tokyo'
          p1> Query RESET "timezone";RESET "work_mem"; | Query set timezone to 'Asia/Tokyo'
          b< CommandComplete SET | ParameterStatus TimeZone=Asia/Tokyo | ReadyForQuery I
        a> Query select 1
          p1> Query SET "work_mem" TO '1MB'; | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn settings_that_are_rolled_back() {
    PRIMARY_ONLY.plays(
        "
        a> Query begin | Query select 1
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query set work_mem to '1MB'
          p1> Query set work_mem to '1MB'
          a< CommandComplete SET | ReadyForQuery T
        a> Query rollback
          p1> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        a> Query begin | Query set work_mem to '2MB' | Query select 1/0 | Query commit
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query set work_mem to '2MB' | Query select 1/0 | Query commit
          a< CommandComplete SET | ReadyForQuery T | RowDescription c | Error 22012 division by zero | ReadyForQuery E | CommandComplete ROLLBACK | ReadyForQuery I
        a> Parse : begin | Bind : | Execute | Parse : set work_mem to '3MB' | Bind : | Execute | Sync
          p1> Parse : begin | Bind : | Execute | Parse : set work_mem to '3MB' | Bind : | Execute | Sync
          a< ParseComplete | BindComplete | CommandComplete BEGIN | ParseComplete | BindComplete | CommandComplete SET | ReadyForQuery T
        a> Query rollback
          p1> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        a> Query show work_mem
          p1> Query show work_mem
          a< RowDescription c | DataRow 4MB | CommandComplete SHOW | ReadyForQuery I
        b> Query show work_mem
          p1> Query show work_mem
          b< RowDescription c | DataRow 4MB | CommandComplete SHOW | ReadyForQuery I
        ",
    );
}

#[test]
fn reset_goes_back_to_what_the_client_asked_for() {
    Stage { startup: &[("timezone", "Europe/Rome")], ..PRIMARY_ONLY }.plays(
        "
        a> Query set timezone to 'Asia/Tokyo'
          p1> Query SELECT pg_catalog.set_config('timezone','Europe/Rome',false); | Query set timezone to 'Asia/Tokyo'
          a< CommandComplete SET | ParameterStatus TimeZone=Asia/Tokyo | ReadyForQuery I
        a> Query reset timezone | Query show timezone
          p1> Query reset timezone
          a< CommandComplete RESET | ParameterStatus TimeZone=Europe/Rome | ReadyForQuery I
          p1> Query SELECT pg_catalog.set_config('timezone','Europe/Rome',false); | Query show timezone
          a< RowDescription c | DataRow Europe/Rome | CommandComplete SHOW | ReadyForQuery I
        a> Query discard all
          p1> Query discard all
          a< CommandComplete DISCARD ALL | ParameterStatus TimeZone=Europe/Rome | ReadyForQuery I
        a> Query show timezone
          p1> Query SELECT pg_catalog.set_config('timezone','Europe/Rome',false); | Query show timezone
          a< RowDescription c | DataRow Europe/Rome | CommandComplete SHOW | ReadyForQuery I
        ",
    );
}

#[test]
fn role_is_settled_before_anything_runs() {
    PRIMARY_ONLY.plays(
        "
        a> Query set role bob
          p1> Query set role bob
          a< CommandComplete SET | ReadyForQuery I
        b> Query select 1
          p1> Query RESET SESSION AUTHORIZATION;RESET ROLE; | Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Query insert into t values (1)
          p1> Query SET ROLE 'bob'; | Query insert into t values (1)
          a< CommandComplete INSERT 0 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn listen_alone_costs_no_server() {
    PRIMARY_ONLY.plays(
        "
        a> Query LISTEN News | Query LISTEN news
          a wants news, which is heard
          a< CommandComplete LISTEN | ReadyForQuery I | CommandComplete LISTEN | ReadyForQuery I
        a> Query UNLISTEN other | Query UNLISTEN *; | Sync
          a< CommandComplete UNLISTEN | ReadyForQuery I
          a is told what was notified
          a< CommandComplete UNLISTEN | ReadyForQuery I | ReadyForQuery I
        a> Query select 1 | Query listen news | Query select 2
          p1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
          a wants news, which is heard
          a< CommandComplete LISTEN | ReadyForQuery I
          p1> Query select 2
          a< RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn listen_alone_in_a_batch_costs_no_server() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : listen news | Bind : | DescribeP | Execute | Sync
          a wants news, which is heard
          a< ParseComplete | BindComplete | NoData | CommandComplete LISTEN | ReadyForQuery I
        a> Parse s: listen more | DescribeS s | Sync
          p1> Parse @1: listen more | DescribeS @1 | Sync
          a< ParseComplete | ParameterDescription 0 | NoData | ReadyForQuery I
        a> Bind p:s | Execute p | CloseP p | Sync
          a wants more, which is heard
          a< BindComplete | CommandComplete LISTEN | CloseComplete | ReadyForQuery I
        a> Parse t: unlisten more | DescribeS t | Bind :t | Execute 1
        a> Sync
          a is told what was notified
          a< ParseComplete | ParameterDescription 0 | NoData | BindComplete | CommandComplete UNLISTEN | ReadyForQuery I
        a> Parse t: select 1 | Sync
          p1> CloseS t | Parse t: | Parse t: select 1 | Sync
          a< Error 42P05 prepared statement \"t\" already exists | ReadyForQuery I
          p1> CloseS t | Sync
        a> Bind :t | Execute | Sync | Bind :s | Execute | Sync
          a< BindComplete | CommandComplete UNLISTEN | ReadyForQuery I
          a wants more, which is heard
          a< BindComplete | CommandComplete LISTEN | ReadyForQuery I
        ",
    );
}

#[test]
fn listen_with_company_pins() {
    PRIMARY_ONLY.plays(
        "
        a> Parse : listen news | Bind : | Execute | Parse : select 1 | Bind : | Execute | Sync
          p1> Parse : listen news | Bind : | Execute | Parse : select 1 | Bind : | Execute | Sync
          a< ParseComplete | BindComplete | CommandComplete LISTEN | ParseComplete | BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
          p1> Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
        a> Query unlisten *
          p1> Query unlisten *
          a< CommandComplete UNLISTEN | ReadyForQuery I
          p1> Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
        b> Parse : listen news | Flush | Bind : | Execute | Sync
          p1> Parse : listen news | Flush | Bind : | Execute | Sync
          b< ParseComplete | BindComplete | CommandComplete LISTEN | ReadyForQuery I
          p1> Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
        ",
    );
}

#[test]
fn without_a_shared_listener_listen_pins() {
    PRIMARY_ONLY.plays(
        "
        ! gone listener
        a> Query listen news
          a wants news, which is declined
          p1> Query listen news
          a< CommandComplete LISTEN | ReadyForQuery I
          p1> Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
        a> Query unlisten *
          p1> Query unlisten *
          a< CommandComplete UNLISTEN | ReadyForQuery I
          p1> Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
        ! back listener
        a> Query listen news
          a wants news, which is heard
          a< CommandComplete LISTEN | ReadyForQuery I
        ",
    );
}

#[test]
fn unlisten_counts_when_its_transaction_commits() {
    let relay = PRIMARY_ONLY.plays(
        "
        a> Query listen one | Query listen two
          a wants one, which is heard
          a< CommandComplete LISTEN | ReadyForQuery I
          a wants two, which is heard
          a< CommandComplete LISTEN | ReadyForQuery I
        a> Query begin | Query unlisten * | Query rollback
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query unlisten * | Query rollback
          a< CommandComplete UNLISTEN | ReadyForQuery T | CommandComplete ROLLBACK | ReadyForQuery I
        a> Query begin | Query unlisten * | Query select 1/0 | Query commit
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query unlisten * | Query select 1/0 | Query commit
          a< CommandComplete UNLISTEN | ReadyForQuery T | RowDescription c | Error 22012 division by zero | ReadyForQuery E | CommandComplete ROLLBACK | ReadyForQuery I
        ",
    );
    assert_eq!(relay.clients[0].session.channels().len(), 2);
    let relay = PRIMARY_ONLY.plays(
        "
        a> Query listen one | Query listen two
          a wants one, which is heard
          a< CommandComplete LISTEN | ReadyForQuery I
          a wants two, which is heard
          a< CommandComplete LISTEN | ReadyForQuery I
        a> Query begin | Query unlisten * | Query commit
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query unlisten * | Query commit
          a< CommandComplete UNLISTEN | ReadyForQuery T | CommandComplete COMMIT | ReadyForQuery I
        b> Query listen one
          b wants one, which is heard
          b< CommandComplete LISTEN | ReadyForQuery I
        b> Query set work_mem to '1MB'
          p1> Query set work_mem to '1MB'
          b< CommandComplete SET | ReadyForQuery I
        b> Query select 1; unlisten *; reset all
          p1> Query select 1; unlisten *; reset all
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | CommandComplete UNLISTEN | CommandComplete RESET | ReadyForQuery I
        c> Query listen one
          c wants one, which is heard
          c< CommandComplete LISTEN | ReadyForQuery I
        c> Query discard all
          p1> Query discard all
          c< CommandComplete DISCARD ALL | ReadyForQuery I
        ",
    );
    assert!(relay.clients.iter().all(|client| client.session.channels().is_empty()));
}

#[test]
fn pin_ends_when_the_server_says_that_its_cause_is_gone() {
    PRIMARY_ONLY.plays(
        "
        a> Query begin | Query listen news | Query commit
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query listen news | Query commit
          a< CommandComplete LISTEN | ReadyForQuery T | CommandComplete COMMIT | ReadyForQuery I
          p1> Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
        a> Query unlisten *
          p1> Query unlisten *
          a< CommandComplete UNLISTEN | ReadyForQuery I
          p1> Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
        b> Query select 1
          p1> Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn value_that_a_text_does_not_tell_is_asked_for() {
    PRIMARY_ONLY.plays(
        "
        a> Query select set_config('work_mem', '8MB', false)
          p1> Query select set_config('work_mem', '8MB', false)
          a< RowDescription c | DataRow 8MB | CommandComplete SELECT 1 | ReadyForQuery I
          p1> Query SELECT pg_catalog.current_setting('work_mem', true)
        b> Query show work_mem
          p1> Query RESET \"work_mem\"; | Query show work_mem
          b< RowDescription c | DataRow 4MB | CommandComplete SHOW | ReadyForQuery I
        a> Query show work_mem
          p1> Query SELECT pg_catalog.set_config('work_mem','8MB',false); | Query show work_mem
          a< RowDescription c | DataRow 8MB | CommandComplete SHOW | ReadyForQuery I
        ",
    );
}

#[test]
fn statement_of_sql_follows_its_client() {
    PRIMARY_ONLY.plays(
        "
        a> Query prepare q as select 1
          p1> Query prepare q as select 1
          a< CommandComplete PREPARE | ReadyForQuery I
        b> Query execute q
          p1> Query DEALLOCATE \"q\" | Query execute q
          b< Error 26000 prepared statement \"q\" does not exist | ReadyForQuery I
        a> Query execute q
          p1> Query prepare q as select 1 | Query execute q
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn statement_of_sql_counted_as_gone_although_that_had_failed() {
    PRIMARY_ONLY.plays(
        "
        a> Query prepare q as select 1
          p1> Query prepare q as select 1
          a< CommandComplete PREPARE | ReadyForQuery I
        ! cancel p1
        b> Query select 2
          p1> Query DEALLOCATE \"q\" | Query select 2
          b< RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        b> Query execute q
          p1> Query DEALLOCATE \"q\" | Query execute q
          b< Error 26000 prepared statement \"q\" does not exist | ReadyForQuery I
        ",
    );
}

#[test]
fn statement_of_sql_was_put_back_before_the_settings() {
    PRIMARY_ONLY.plays(
        r#"
        a> Query set work_mem to '1MB'
          p1> Query set work_mem to '1MB'
          a< CommandComplete SET | ReadyForQuery I
        a> Query prepare q as select 1
          p1> Query prepare q as select 1
          a< CommandComplete PREPARE | ReadyForQuery I
        b> Query select 1
          p1> Query DEALLOCATE "q" | Query RESET "work_mem"; | Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Query execute q
          p1> Query SET "work_mem" TO '1MB'; | Query prepare q as select 1 | Query execute q
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn setting_that_cannot_be_restored_is_told() {
    Stage { startup: &[("work_mem", "bad")], ..PRIMARY_ONLY }.plays(
        "
        a> Query select 1
          p1> Query SELECT pg_catalog.set_config('work_mem','bad',false);
          a< Error 22023 the session's settings could not be restored on another server connection
          a is told why and cut off
        ",
    );
}

// --- Routing ------------------------------------------------------------------------------------------------------------

#[test]
fn each_statement_goes_its_own_way() {
    TRANSACTION.plays(
        "
        a> Query select 1
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Query insert into t values (1)
          p1> Query insert into t values (1)
          a< CommandComplete INSERT 0 1 | ReadyForQuery I
        a> Query select 1 | Query insert into t values (1) | Query select 2
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
          p1> Query insert into t values (1) | Query select 2
          a< CommandComplete INSERT 0 1 | ReadyForQuery I | RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Query begin | Query select 1 | Query commit
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1 | Query commit
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T | CommandComplete COMMIT | ReadyForQuery I
        ",
    );
}

#[test]
fn reads_stay_after_a_write() {
    Stage { consistency: Consistency::Sticky, ..TRANSACTION }.plays(
        "
        a> Query insert into t values (1)
          p1> Query insert into t values (1)
          a< CommandComplete INSERT 0 1 | ReadyForQuery I
        a> Query select 1
          p1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ! wait 3s
        a> Query select 1
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn its_own_settings_are_answered_without_a_server() {
    TRANSACTION.plays(
        "
        a> Query SHOW pglagoon.consistency
          a< RowDescription pglagoon.consistency | DataRow eventual | CommandComplete SHOW | ReadyForQuery I
        a> Query SET pglagoon.consistency = 'primary'
          a< CommandComplete SET | ReadyForQuery I
        a> Query select 1
          p1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Query SET pglagoon.consistency = 'best'
          a< Error 22023 invalid value for parameter \"pglagoon.consistency\": \"best\" | ReadyForQuery I
        a> Query begin | Query SHOW pglagoon.consistency | Query commit
          a< CommandComplete BEGIN | ReadyForQuery T | RowDescription pglagoon.consistency | DataRow primary | CommandComplete SHOW | ReadyForQuery T | CommandComplete COMMIT | ReadyForQuery I
        a> Query RESET pglagoon.consistency
          a< CommandComplete RESET | ReadyForQuery I
        a> Query select 1
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn its_own_settings_are_answered_in_the_extended_protocol_too() {
    TRANSACTION.plays(
        "
        a> Parse s: SET pglagoon.consistency = 'primary' | DescribeS s | Sync
          a< ParseComplete | ParameterDescription 0 | NoData | ReadyForQuery I
        a> Bind :s | Execute | Sync
          a< BindComplete | CommandComplete SET | ReadyForQuery I
        a> Parse : SHOW pglagoon.consistency | Bind : | DescribeP | Execute | Sync
          a< ParseComplete | BindComplete | RowDescription pglagoon.consistency | DataRow primary | CommandComplete SHOW | ReadyForQuery I
        a> Parse : select 1 | Bind : | Execute | Parse : SHOW pglagoon.consistency | Bind : | Execute | Sync
          p1> Parse : select 1 | Bind : | Execute | Sync
          a< ParseComplete | BindComplete | DataRow 1 | CommandComplete SELECT 1 | ParseComplete | BindComplete | DataRow primary | CommandComplete SHOW | ReadyForQuery I
        a> Parse : SHOW pglagoon.nothing | Bind : | Execute | Sync
          a< Error 42704 unrecognized configuration parameter \"pglagoon.nothing\" | ReadyForQuery I
        a> Query DISCARD ALL
          p1> Query DISCARD ALL
          a< CommandComplete DISCARD ALL | ReadyForQuery I
        a> Query SHOW pglagoon.consistency
          a< RowDescription pglagoon.consistency | DataRow eventual | CommandComplete SHOW | ReadyForQuery I
        ",
    );
}

#[test]
fn bind_was_routed_by_the_statement_before() {
    TRANSACTION.plays(
        "
        a> Parse r: select 1 | Sync | Parse w: insert into t values (1) | Sync
          r1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
          p1> Parse @2: insert into t values (1) | Sync
          a< ParseComplete | ReadyForQuery I
        a> Bind :w | Execute | Sync
          p1> Bind :@2 | Execute | Sync
          a< BindComplete | CommandComplete INSERT 0 1 | ReadyForQuery I
        a> Bind :r | Execute | Sync
          r1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Bind :r | Execute | Bind :w | Execute | Sync
          p1> Parse @1: select 1 | Bind :@1 | Execute | Bind :@2 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | BindComplete | CommandComplete INSERT 0 1 | ReadyForQuery I
        a> Bind :r | Execute
        a> Sync
          r1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn statement_mode_refuses_a_transaction() {
    STATEMENT.plays(
        "
        a> Query begin
          a< Error 0A000 transaction blocks are not allowed in statement pooling mode | ReadyForQuery I
        a> Query select 1
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : begin | Bind : | Execute | Sync
          a< Error 0A000 transaction blocks are not allowed in statement pooling mode | ReadyForQuery I
        a> Query select 1
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn session_mode_keeps_its_server_and_its_names() {
    SESSION.plays(
        r#"
        a> Parse s: select 1 | Sync
          p1> Parse s: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        b> Query select 1
          p2> Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse s: select 2 | Sync
          p1> Parse s: select 2 | Sync
          a< Error 42P05 prepared statement "s" already exists | ReadyForQuery I
        a> Bind :s | Execute | Sync
          p1> Bind :s | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Query deallocate s
          p1> Query deallocate s
          a< CommandComplete DEALLOCATE | ReadyForQuery I
        a> Query listen x
          p1> Query listen x
          a< CommandComplete LISTEN | ReadyForQuery I
        a> Terminate
          a said goodbye
        "#,
    );
}

// --- Transactions that begin late -------------------------------------------------------------------------------------

#[test]
fn begin_takes_no_server_before_its_first_statement() {
    PRIMARY_ONLY.plays(
        "
        a> Query begin
          a< CommandComplete BEGIN | ReadyForQuery T
        b> Query insert into t values (1)
          p1> Query insert into t values (1)
          b< CommandComplete INSERT 0 1 | ReadyForQuery I
        a> Query commit
          a< CommandComplete COMMIT | ReadyForQuery I
        a> Query begin
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Parse : insert into t values (2) | Bind : | Execute | Sync
          p1> Query begin | Parse : insert into t values (2) | Bind : | Execute | Sync
          a< ParseComplete | BindComplete | CommandComplete INSERT 0 1 | ReadyForQuery T
        a> Query rollback
          p1> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        ",
    );
}

#[test]
fn transaction_that_only_reads_runs_on_a_replica_as_a_whole() {
    TRANSACTION.plays(
        "
        a> Query begin read only
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Query select 1
          r1> Query begin read only | Query SHOW transaction_isolation | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query select 2 | Query commit
          r1> Query select 2 | Query commit
          a< RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery T | CommandComplete COMMIT | ReadyForQuery I
        a> Query begin read only
          a< CommandComplete BEGIN | ReadyForQuery T
        a> Query set work_mem to '1MB' | Query rollback
          p1> Query begin read only | Query set work_mem to '1MB' | Query rollback
          a< CommandComplete SET | ReadyForQuery T | CommandComplete ROLLBACK | ReadyForQuery I
        ",
    );
}

#[test]
fn transaction_without_a_server_to_be_had_is_a_failed_one() {
    Stage { primaries: 1, ..PRIMARY_ONLY }.plays(
        "
        b> Query begin | Query select 1
          b< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1
          b< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query begin | Query insert into t values (1)
          a< CommandComplete BEGIN | ReadyForQuery T
        ! refuse a
          a< Error 53300 no server connection | ReadyForQuery E
        a> Query insert into t values (2) | Parse : insert into t values (3) | Bind : | Execute | Sync
          a< Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E | Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E
        a> Parse : rollback | Bind : | DescribeP | Execute | Sync
          a< ParseComplete | BindComplete | NoData | CommandComplete ROLLBACK | ReadyForQuery I
        a> Query begin | Query insert into t values (1)
          a< CommandComplete BEGIN | ReadyForQuery T
        ! refuse a
          a< Error 53300 no server connection | ReadyForQuery E
        a> Query commit
          a< CommandComplete ROLLBACK | ReadyForQuery I
        b> Query commit
          p1> Query commit
          b< CommandComplete COMMIT | ReadyForQuery I
        a> Query insert into t values (4)
          p1> Query insert into t values (4)
          a< CommandComplete INSERT 0 1 | ReadyForQuery I
        ",
    );
}

// --- What goes away -----------------------------------------------------------------------------------------------------

#[test]
fn client_died_in_the_middle_of_a_result() {
    PRIMARY_ONLY.plays(
        "
        ! stop p1
        a> Query begin | Query select 1 | Parse : set work_mem to '1MB' | Bind : | Execute
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1 | Parse : set work_mem to '1MB' | Bind : | Execute
        ! gone a
          a is gone
        ! go p1
        b> Query show work_mem
          p1> Query show work_mem
          b< RowDescription c | DataRow 4MB | CommandComplete SHOW | ReadyForQuery I
        ",
    );
}

#[test]
fn server_lost_under_a_query() {
    TRANSACTION.plays(
        "
        ! stop p1
        a> Query insert into t values (1) | Query insert into t values (2)
          p1> Query insert into t values (1) | Query insert into t values (2)
        ! kill p1
          a< Error 08007 the answer was lost with the server connection: killed | ReadyForQuery I | Error 08007 the answer was lost with the server connection: killed | ReadyForQuery I
        ! go p1
        a> Query select 1
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn server_lost_under_a_batch() {
    TRANSACTION.plays(
        "
        ! stop p1
        a> Parse : insert into t values (1) | Bind : | Execute | Flush
          p1> Parse : insert into t values (1) | Bind : | Execute | Flush
        ! kill p1
          a< Error 08007 the answer was lost with the server connection: killed
        ! go p1
        a> Bind : | Sync
          a< ReadyForQuery I
        ",
    );
}

#[test]
fn what_follows_a_lost_begin_ran_outside_the_transaction() {
    TRANSACTION.plays(
        "
        ! stop p1
        a> Query begin | Query select 1
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query select 1
        ! kill p1
          a< Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery E
        ! go p1
        a> Query insert into t values (1) | Query rollback | Query insert into t values (2)
          a< Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E | CommandComplete ROLLBACK | ReadyForQuery I
          p1> Query insert into t values (2)
          a< CommandComplete INSERT 0 1 | ReadyForQuery I
        ! stop p1
        b> Parse : begin | Bind : | Execute | Parse : insert into t values (3) | Bind : | Execute | Sync
          p1> Parse : begin | Bind : | Execute | Parse : insert into t values (3) | Bind : | Execute | Sync
        ! kill p1
          b< Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery E
        ! go p1
        b> Parse : insert into t values (4) | Bind : | Execute | Sync | Parse : commit | Bind : | Execute | Sync
          b< Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E | ParseComplete | BindComplete | CommandComplete ROLLBACK | ReadyForQuery I
        ",
    );
}

#[test]
fn server_lost_under_a_transaction() {
    PRIMARY_ONLY.plays(
        "
        a> Query begin | Query insert into t values (1)
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query insert into t values (1)
          a< CommandComplete INSERT 0 1 | ReadyForQuery T
        ! stop p1
        a> Query insert into t values (2)
          p1> Query insert into t values (2)
        ! kill p1
          a< Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery E
        ! go p1
        a> Query select 1 | Query savepoint a | Query commit | Query select 2
          a< Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E | Error 25P02 current transaction is aborted, commands ignored until end of transaction block | ReadyForQuery E | CommandComplete ROLLBACK | ReadyForQuery I
          p1> Query select 2
          a< RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn server_lost_under_commit() {
    PRIMARY_ONLY.plays(
        "
        a> Query begin | Query insert into t values (1)
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query insert into t values (1)
          a< CommandComplete INSERT 0 1 | ReadyForQuery T
        ! stop p1
        a> Query insert into t values (2) | Query commit | Query select 3
          p1> Query insert into t values (2) | Query commit | Query select 3
        ! kill p1
          a< Error 08007 the answer was lost with the server connection: killed | ReadyForQuery E | Error 08007 the answer was lost with the server connection: killed | ReadyForQuery I | Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery I
        ! go p1
        b> Query begin | Query insert into t values (1)
          b< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query insert into t values (1)
          b< CommandComplete INSERT 0 1 | ReadyForQuery T
        ! stop p1
        b> Query rollback
          p1> Query rollback
        ! kill p1
          b< CommandComplete ROLLBACK | ReadyForQuery I
        ",
    );
}

#[test]
fn server_lost_under_an_idle_transaction() {
    let begun = "
        a> Query begin | Query insert into t values (1)
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query insert into t values (1)
          a< CommandComplete INSERT 0 1 | ReadyForQuery T
        ! kill p1
        ";
    let told = [
        "a> Query select 1 | Query commit
          a< Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery E | CommandComplete ROLLBACK | ReadyForQuery I",
        "a> Query commit
          a< Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery I",
        "a> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I",
        "a> CloseS x | Parse : commit | Bind : | Execute | Sync | Query rollback
          a< CloseComplete | Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery E | CommandComplete ROLLBACK | ReadyForQuery I",
        "a> Parse : rollback | Bind : | Execute | Sync
          a< ParseComplete | BindComplete | CommandComplete ROLLBACK | ReadyForQuery I",
        "a> FunctionCall | Query rollback
          a< Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery E | CommandComplete ROLLBACK | ReadyForQuery I",
    ];
    for told in told {
        let after = "
        a> Query select 2
          p1> Query select 2
          a< RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        ";
        PRIMARY_ONLY.plays(&format!("{begun}{told}{after}"));
    }
}

#[test]
fn server_lost_under_copy() {
    PRIMARY_ONLY.plays(
        "
        a> Query copy t from stdin
          p1> Query copy t from stdin
          a< CopyInResponse
        a> CopyData x
          p1> CopyData x
        ! kill p1
          a< Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery I
        a> CopyData y | CopyDone
        a> Parse : copy t from stdin | Bind : | Execute | Sync
          p1> Parse : copy t from stdin | Bind : | Execute | Sync
          a< ParseComplete | BindComplete | CopyInResponse
        a> CopyData x
          p1> CopyData x
        ! kill p1
          a< Error 40001 the transaction was lost with its server connection: killed
        a> CopyData y | CopyDone | Sync
          a< ReadyForQuery I
        a> Query copy t from stdin
          p1> Query copy t from stdin
          a< CopyInResponse
        ! stop p1
        a> CopyData x | CopyDone
          p1> CopyData x | CopyDone
        ! kill p1
          a< Error 08007 the answer was lost with the server connection: killed | ReadyForQuery I
        ! go p1
        a> Query select 1
          p1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn settings_of_a_lost_transaction_stayed() {
    PRIMARY_ONLY.plays(
        "
        a> Query set work_mem to '2MB'
          p1> Query set work_mem to '2MB'
          a< CommandComplete SET | ReadyForQuery I
        a> Query begin | Query set work_mem to '1MB'
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query set work_mem to '1MB'
          a< CommandComplete SET | ReadyForQuery T
        ! kill p1
        a> Query rollback | Query show work_mem
          a< CommandComplete ROLLBACK | ReadyForQuery I
          p1> Query SET \"work_mem\" TO '2MB'; | Query show work_mem
          a< RowDescription c | DataRow 2MB | CommandComplete SHOW | ReadyForQuery I
        ",
    );
}

#[test]
fn a_transaction_that_no_server_has_seen_was_lost_with_one() {
    PRIMARY_ONLY.plays(
        "
        a> Query set role bob
          p1> Query set role bob
          a< CommandComplete SET | ReadyForQuery I
        b> Query select 0
          p1> Query RESET SESSION AUTHORIZATION;RESET ROLE; | Query select 0
          b< RowDescription c | DataRow 0 | CommandComplete SELECT 1 | ReadyForQuery I
        ! stop p1
        a> Query begin | Query insert into t values (1)
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query SET ROLE 'bob';
        ! kill p1
          p1> Query SET ROLE 'bob';
        ! go p1
          p1> Query begin | Query insert into t values (1)
          a< CommandComplete INSERT 0 1 | ReadyForQuery T
        a> Query commit
          p1> Query commit
          a< CommandComplete COMMIT | ReadyForQuery I
        ",
    );
}

#[test]
fn a_transaction_that_has_only_read_was_lost_with_its_replica() {
    PROMOTE.plays(
        "
        ! stop r1
        a> Query begin | Query select 1
          a< CommandComplete BEGIN | ReadyForQuery T
          r1> Query begin | Query SHOW transaction_isolation
        ! kill r1
          r1> Query begin | Query SHOW transaction_isolation
        ! go r1
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        ! stop r1
        a> Query commit
          r1> Query commit
        ! kill r1
          a< Error 40001 the transaction was lost with its server connection: killed | ReadyForQuery I
        ",
    );
    Stage { consistency: Consistency::Session, ..PROMOTE }.plays(
        "
        a> Query begin | Query select 1
          a< CommandComplete BEGIN | ReadyForQuery T
          r1> Query begin | Query SHOW transaction_isolation | Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query savepoint s
          r1> Query savepoint s
          a< CommandComplete SAVEPOINT | ReadyForQuery T
        ! kill r1
        a> Query select 2
          p1> Query begin | Query savepoint s | Query select 2
          a< RowDescription c | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery T
        a> Query commit
          p1> Query commit
          a< CommandComplete COMMIT | ReadyForQuery I
        ",
    );
}

#[test]
fn state_that_cannot_follow_is_not_lost_in_silence() {
    PRIMARY_ONLY.plays(
        "
        ! gone listener
        a> Query begin | Query listen news
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query listen news
          a< CommandComplete LISTEN | ReadyForQuery T
        ! kill p1
        a> Query rollback
          a< CommandComplete ROLLBACK | ReadyForQuery I
        a> Query begin | Query listen news | Query commit
          a< CommandComplete BEGIN | ReadyForQuery T
          p1> Query begin | Query listen news | Query commit
          a< CommandComplete LISTEN | ReadyForQuery T | CommandComplete COMMIT | ReadyForQuery I
          p1> Query SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
        ! kill p1
          a< Error 57P01 terminating connection: killed
          a is told why and cut off
        ",
    );
    SESSION.plays(
        "
        a> Query select 1
          p1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ! kill p1
          a< Error 57P01 terminating connection: killed
          a is told why and cut off
        ",
    );
}

#[test]
fn server_lost_while_settings_are_restored() {
    TRANSACTION.plays(
        "
        a> Query set role bob
          p1> Query set role bob
          a< CommandComplete SET | ReadyForQuery I
        b> Query insert into t values (0)
          p1> Query RESET SESSION AUTHORIZATION;RESET ROLE; | Query insert into t values (0)
          b< CommandComplete INSERT 0 1 | ReadyForQuery I
        ! stop p1
        a> Query insert into t values (1)
          p1> Query SET ROLE 'bob';
        ! kill p1
          p1> Query SET ROLE 'bob';
        ! go p1
          p1> Query insert into t values (1)
          a< CommandComplete INSERT 0 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn no_server_is_to_be_had() {
    Stage { primaries: 0, ..TRANSACTION }.plays(
        "
        a> Query insert into t values (1) | Query select 1
        ! refuse a
          a< Error 53300 no server connection | ReadyForQuery I
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse : insert into t values (1) | Bind : | Execute | Sync | Query select 1
        ! refuse a
          a< Error 53300 no server connection | ReadyForQuery I
          r1> Query select 1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        ",
    );
}

#[test]
fn a_reload_to_session_mode_lost_prepared_statements() {
    PRIMARY_ONLY.plays(
        r#"
        a> Parse s: select 1 | Sync
          p1> Parse @1: select 1 | Sync
          a< ParseComplete | ReadyForQuery I
        ! mode session
          session mode
        a> Bind :s | Execute | Sync
          p1> Bind :@1 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        a> Parse t: select 2 | DescribeS t | Bind :t | Execute | Sync
          p1> Parse @2: select 2 | DescribeS @2 | Bind :@2 | Execute | Sync
          a< ParseComplete | ParameterDescription 0 | RowDescription c | BindComplete | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I
        a> CloseS s | Parse s: select 3 | Bind :s | Execute | Sync
          p1> Parse @3: select 3 | Bind :@3 | Execute | Sync
          a< CloseComplete | ParseComplete | BindComplete | DataRow 3 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn bind_larger_than_any_buffer_is_streamed() {
    let mut relay = Relay::new(PoolMode::Transaction, 1, 1, 10);
    let client = relay.connect("a", &[]);
    let value = "x".repeat(3 << 20);
    relay.clients[client].network.extend(frontend("Parse s: select $1 | Sync"));
    relay.settle();
    bind(&mut relay.clients[client].network, "", "s", &[&value]);
    relay.clients[client].network.extend(frontend("Execute | Sync"));
    while !relay.clients[client].network.is_empty() {
        relay.arrive(client, 1000);
        if let Some(&server) = relay.candidates(client).first() {
            assert_eq!(
                relay.servers[server].name, "p1",
                "a batch whose end is out of sight is the primary's"
            );
            relay.grant(client, server);
        }
    }
    relay.settle();
    assert!(relay.largest_input < LOOKAHEAD + 2000, "{} bytes were held", relay.largest_input);
    let (all, _) = messages(&relay.clients[client].view);
    assert!(all.iter().any(|(tag, body)| *tag == b'D' && body.len() > 3 << 20));
    relay.assert_nothing_leaked();
}

#[test]
fn server_lost_inside_a_row_leaves_nothing_to_say() {
    let mut relay = Relay::new(PoolMode::Transaction, 1, 0, 10);
    let client = relay.connect("a", &[]);
    relay.clients[client].network.extend(frontend("Query select 1"));
    relay.arrive(client, usize::MAX);
    relay.grant(client, 0);
    relay.deliver(0, usize::MAX);
    // RowDescription, and a part of DataRow.
    relay.answer(0, 36);
    relay.kill_server(0);
    assert_eq!(relay.clients[client].closed, Some(Farewell::Abrupt));
}

#[test]
fn a_read_that_a_replica_could_not_serve_failed() {
    TRANSACTION.plays(
        r#"
        a> Query select * from missing
          r1> Query select * from missing
          p1> Query select * from missing
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery I
        a> Parse s: select * from missing | Sync
          r1> Parse @1: select * from missing | Sync
          p1> Parse @1: select * from missing | Sync
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery I
        a> Parse t: select 1 | Parse : select * from missing | Bind : | Execute | Sync
          r1> Parse @2: select 1 | Parse : select * from missing | Bind : | Execute | Sync
          p1> Parse @2: select 1 | Parse : select * from missing | Bind : | Execute | Sync
          a< ParseComplete | Error 42P01 relation "missing" does not exist | ReadyForQuery I
        a> Bind :t | Execute | Sync
          r1> Bind :@2 | Execute | Sync
          a< BindComplete | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn a_read_whose_replica_died_failed() {
    TRANSACTION.plays(
        r#"
        ! stop r1
        a> Query select 1
          r1> Query select 1
        ! kill r1
          r1> Query select 1
        ! go r1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn what_stood_behind_a_read_was_lost_with_it() {
    TRANSACTION.plays(
        r#"
        a> Query select * from missing | Query insert 1
          r1> Query select * from missing
          p1> Query select * from missing | Query insert 1
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery I | CommandComplete INSERT 0 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn pipelined_reads_whose_replica_died_failed_each() {
    TRANSACTION.plays(
        r#"
        ! stop r1
        a> Query select 1 | Parse : select 2 | Bind : | Execute | Bind : | Execute | Sync | Query select 3
          r1> Query select 1 | Parse : select 2 | Bind : | Execute | Bind : | Execute | Sync | Query select 3
        ! kill r1
          r1> Query select 1 | Parse : select 2 | Bind : | Execute | Bind : | Execute | Sync | Query select 3
        ! go r1
          a< RowDescription c | DataRow 1 | CommandComplete SELECT 1 | ReadyForQuery I | ParseComplete | BindComplete | DataRow 2 | CommandComplete SELECT 1 | BindComplete | DataRow 2 | CommandComplete SELECT 1 | ReadyForQuery I | RowDescription c | DataRow 3 | CommandComplete SELECT 1 | ReadyForQuery I
        "#,
    );
}

#[test]
fn a_batch_that_waited_for_a_failed_read_hung() {
    TRANSACTION.plays(
        r#"
        a> Parse : select * from missing | Bind : | Execute | Sync | Bind : | Execute | Sync
          r1> Parse : select * from missing | Bind : | Execute | Sync
          p1> Parse : select * from missing | Bind : | Execute | Sync
          a< Error 42P01 relation "missing" does not exist | ReadyForQuery I
          p1> CloseS | Bind : | Execute | Sync
          a< Error 26000 unnamed prepared statement does not exist | ReadyForQuery I
        "#,
    );
}

#[test]
fn reads_beyond_what_is_kept_were_lost() {
    const READS: usize = 5_000;
    let mut relay = Relay::new(PoolMode::Transaction, 1, 1, 10);
    let client = relay.connect("a", &[]);
    relay.servers[1].is_stuck = true;
    relay.clients[client].network.extend(frontend("Query select 1").repeat(READS));
    relay.settle();
    let sent = relay.servers[1].wire.len();
    assert!((15_000..17_000).contains(&sent), "{sent} bytes are under way");
    relay.kill_server(1);
    relay.servers[1].is_stuck = false;
    relay.settle();
    let (seen, _) = messages(&relay.clients[client].view);
    let count = |wanted: u8| seen.iter().filter(|(tag, _)| *tag == wanted).count();
    assert_eq!([b'E', b'D', b'Z'].map(count), [0, READS, READS]);
    relay.assert_nothing_leaked();
}

#[test]
fn reads_behind_one_that_was_shown_in_part_failed_with_it() {
    let mut relay = Relay::new(PoolMode::Transaction, 1, 1, 10);
    relay.trace = Some(Default::default());
    let client = relay.connect("a", &[]);
    relay.clients[client].network.extend(frontend("Query select 1 | Query select 2 | Query select 3"));
    relay.arrive(client, usize::MAX);
    relay.grant(client, 1);
    relay.deliver(1, usize::MAX);
    // The first answer, and the second up to its row.
    let (description, row, end) = (27, 12, 14 + 6);
    relay.answer(1, description + row + end + description + row);
    relay.kill_server(1);
    relay.settle();
    let (seen, _) = messages(&relay.clients[client].view);
    let tags: String = seen.iter().map(|(tag, _)| char::from(*tag)).collect();
    assert_eq!(tags, "TDCZ TDEZ TDCZ".replace(' ', ""), "{}", relay.told());
}

// --- Limits on what a client can make grow -----------------------------------------------------------------------------

/// Sends `words` and lets everything happen.
fn say(relay: &mut Relay, words: &str) {
    relay.clients[0].network.extend(frontend(words));
    relay.settle();
}

fn is_pinned(relay: &Relay) -> bool {
    !relay.clients[0].session.pins().is_empty()
}

#[test]
fn settings_of_a_batch_without_an_end_grew() {
    let mut relay = Relay::new(PoolMode::Transaction, 1, 0, 10);
    relay.connect("a", &[]);
    let value = "x".repeat(MAX_REMEMBERED / 8);
    say(&mut relay, &format!("Parse s: set application_name to '{value}'"));
    for sent in 0..10 {
        assert_eq!(is_pinned(&relay), sent > 7, "after {sent}");
        say(&mut relay, "Bind :s | Execute | Flush");
    }
    say(&mut relay, "Sync");
    assert!(is_pinned(&relay), "what is not followed any more must not reach anybody else");
}

#[test]
fn values_of_settings_grew() {
    let mut relay = Relay::new(PoolMode::Transaction, 1, 0, 10);
    relay.connect("a", &[]);
    for (name, is_followed) in [("application_name", true), ("search_path", false)] {
        say(&mut relay, &format!("Query set {name} to '{}'", "x".repeat(MAX_LENGTH / 2)));
        assert_eq!(!is_pinned(&relay), is_followed);
    }
}

#[test]
fn texts_of_prepared_statements_grew() {
    let mut relay = Relay::new(PoolMode::Transaction, 1, 0, 10);
    relay.connect("a", &[]);
    let text = "x".repeat(MAX_STATEMENT_BYTES / 4);
    for number in 0..6 {
        say(&mut relay, &format!("Parse s{number}: select '{text}' | Sync"));
    }
    let session = &mut relay.clients[0].session;
    assert_eq!(session.prepared_statements(), 4);
    say(&mut relay, "CloseS s0 | Parse s6: select 1 | Sync");
    assert_eq!(relay.clients[0].session.prepared_statements(), 4);
}
