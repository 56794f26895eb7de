//! The server connection ended: what the client is told, and what becomes of its transaction.
//!
//! The client stays. What was under way is answered with an error that says what is known: 40001 if nothing of it lasts,
//! 08007 if it may have been committed. A transaction block is over at the server, but not for the client, who sends what
//! belongs to it: all of that is refused up to its end, see [`begin`].
//!
//! | the connection was lost | the client is told | and stands |
//! |---|---|---|
//! | in a block, before COMMIT was sent | 40001 | in a failed block |
//! | between two requests of a block | 40001, at the next request | in a failed block |
//! | with COMMIT outstanding | 08007 | outside |
//! | with ROLLBACK outstanding | that it is rolled back | outside |
//! | under a statement on its own that may write | 08007 | outside |
//! | under one that only reads, if it cannot run again ([`replay`]) | 40001 | outside |
//! | under COPY FROM STDIN that waits for data | 40001 | as above |
//!
//! 40001 is what applications run again on; 57P01 is not, and connection pools in front of us would throw away a
//! connection that is as good as ever. Only who kept state on the server that cannot follow ([`pin`], or session
//! mode) is disconnected, by 57P01: a connection of its own would be gone, too.

use super::begin::Deferred;
use super::stake::{Fate, Loss, Stake, losses};
use super::*;

/// Why a server connection ended.
struct Cause<'a> {
    why: &'a str,
    /// What the server said before.
    words: Option<Box<Report>>,
}

/// What is lost.
struct Losses {
    /// Of each ReadyForQuery that is owed.
    owed: Vec<Loss>,
    /// Of what was sent behind the last one.
    open: Loss,
    /// The first request has been answered by an error already.
    is_first_told: bool,
}

impl Session {
    /// The server connection ended. What was asked and not answered is answered with an error; the client stays if it
    /// has lost no state. `edits.reply` goes to the client.
    pub fn on_server_lost(&mut self, why: &str, edits: &mut Edits) -> Want {
        edits.clear();
        let cause = Cause { why, words: self.last_words.take() };
        let is_cut = !self.tenure.server.at_boundary()
            && self.tenure.server_part == Passing::Forward
            && !self.is_muted();
        let status = self.status_at_server();
        let lost = self.losses(status);
        let lost_state = self.lost_state();
        if let Some((own, _)) = self.transaction.rolled_back() {
            self.settings = own;
        }
        let undone: Vec<Reply> = self.replies.drain().collect();
        if self.promotable.is_some() && lost.owed.is_empty() {
            self.go_on_elsewhere();
        }
        let told = match self.errors_before_replay() {
            Some(count) => {
                // What of a batch was sent is sent again.
                self.batch = Batch::Idle;
                up_to_ready(&undone, count)
            }
            None => &undone[..],
        };
        let mut answers = Vec::new();
        self.answer_lost(told, &lost, &cause, &mut answers);
        undone.into_iter().rev().for_each(|reply| self.undo(reply.then, None));
        self.forget_server();
        if is_cut {
            return Want::Close(Farewell::Abrupt);
        }
        if let Some(again) = self.replay_what_was_lost() {
            edits.reply.extend_from_slice(&answers);
            return again;
        }
        if let Some(state) = lost_state {
            let is_unknown = lost.owed.iter().chain([&lost.open]).any(|loss| loss.fate == Fate::Unknown);
            return fatal(cause.of_state(&state, is_unknown));
        }
        edits.reply.extend_from_slice(&answers);
        self.client_part = Passing::Skip;
        self.go_on_without(status, &lost, &cause);
        Want::Input
    }

    /// Where the transaction stands that the server knew of.
    fn status_at_server(&self) -> TransactionStatus {
        match self.deferred {
            Some(_) => TransactionStatus::Idle,
            None => self.transaction.status(),
        }
    }

    fn losses(&self, status: TransactionStatus) -> Losses {
        let (mut stakes, open) = self.replies.stakes();
        stakes.push(open);
        let is_first_told =
            self.tenure.outcome == Outcome::Failed || self.batch == Batch::Failed && stakes.len() == 1;
        if self.tenure.copy == Copy::In {
            stakes[0] = stakes[0].waiting_for_copy();
        }
        let has_block = status != TransactionStatus::Idle || stakes[0].any(Stake::BEGINS);
        let status = match is_first_told && has_block {
            true => TransactionStatus::Failed,
            false => status,
        };
        if is_first_told {
            stakes[0] = Stake::NOTHING;
        }
        let mut owed = losses(&stakes, status);
        let open = owed.pop().expect("one was pushed above");
        Losses { owed, open, is_first_told }
    }

    /// The state of the client's that only this server had.
    fn lost_state(&self) -> Option<String> {
        if self.mode == PoolMode::Session {
            return Some("its session".into());
        }
        let asked = |reply: &Reply| matches!(reply.then.as_deref(), Some(Then::Asked(Question::Settings(_))));
        // What changed in a transaction that was lost is what it was before.
        let has_hidden = self.tenure.hidden.is_some() && !self.transaction.is_open();
        if has_hidden || self.replies.any(asked) {
            return Some("settings that it had not told yet".into());
        }
        let labels: Vec<&str> = self.tenure.kept_pins.reasons().map(|reason| reason.label).collect();
        (!labels.is_empty()).then(|| format!("state of its session ({})", labels.join(", ")))
    }

    /// Appends the answers to everything that is owed.
    fn answer_lost(&mut self, undone: &[Reply], lost: &Losses, cause: &Cause<'_>, out: &mut Vec<u8>) {
        let mut owed = lost.owed.iter();
        let mut loss = owed.next().unwrap_or(&lost.open);
        let mut is_told = lost.is_first_told;
        let mut is_alone = true;
        for reply in undone.iter().filter(|reply| reply.action != Action::Swallow) {
            if reply.action != Action::Forward {
                if let (Some(Then::Answered(bytes)), false) = (reply.then.as_deref(), is_told) {
                    out.extend_from_slice(bytes);
                }
                continue;
            }
            let is_query = reply.request == Request::Query && is_alone;
            match loss.fate {
                _ if is_told => {}
                Fate::RolledBack if is_query => backend::write_command_complete(out, "ROLLBACK"),
                Fate::RolledBack | Fate::Undone | Fate::Unknown => {
                    cause.of(loss.fate).write(out, Severity::Error)
                }
            }
            (is_told, is_alone) = (true, false);
            if reply.request.ends_ready() {
                backend::write_ready(out, loss.status);
                loss = owed.next().unwrap_or(&lost.open);
                (is_told, is_alone) = (false, true);
            }
        }
        if self.batch == Batch::Open {
            if !is_told {
                cause.of(lost.open.fate).write(out, Severity::Error);
            }
            self.batch = Batch::Failed;
        }
    }

    /// The client's transaction block, if it is in one, takes nothing any more but its end.
    fn go_on_without(&mut self, before: TransactionStatus, lost: &Losses, cause: &Cause<'_>) {
        if lost.open.status == TransactionStatus::Idle || self.deferred.is_some() {
            return;
        }
        let is_untold =
            before == TransactionStatus::InTransaction && lost.owed.is_empty() && self.batch == Batch::Idle;
        self.deferred = Some(Box::new(Deferred::lost(is_untold.then(|| cause.of(Fate::Undone)))));
        self.transaction.ready(if is_untold { before } else { TransactionStatus::Failed });
    }
}

/// What is owed up to this many ReadyForQuery.
fn up_to_ready(owed: &[Reply], count: usize) -> &[Reply] {
    let is_end = |reply: &Reply| reply.request.ends_ready() && reply.action == Action::Forward;
    let ends = owed.iter().enumerate().filter(|(_, reply)| is_end(reply));
    let last = count.checked_sub(1).and_then(|before| ends.map(|(place, _)| place + 1).nth(before));
    &owed[..last.unwrap_or(0)]
}

impl Cause<'_> {
    fn of(&self, fate: Fate) -> Report {
        match fate {
            Fate::Unknown => Report::new(
                ErrorSource::Server,
                SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
                format!("the answer was lost with the server connection: {self}"),
            )
            .detail("Whether it was committed is not known.")
            .hint("Look before you run it again."),
            Fate::Undone | Fate::RolledBack => Report::new(
                ErrorSource::Server,
                self.code(),
                format!("the transaction was lost with its server connection: {self}"),
            )
            .detail("Nothing of it was committed.")
            .hint("It can be run again, on this connection."),
        }
    }

    fn of_state(&self, state: &str, is_unknown: bool) -> Report {
        let code =
            if is_unknown { SqlState::TRANSACTION_RESOLUTION_UNKNOWN } else { SqlState::ADMIN_SHUTDOWN };
        let unknown = if is_unknown { " Whether what ran last was committed is not known." } else { "" };
        // What the server said about itself is what the client would have heard from it.
        let (code, text) = match &self.words {
            Some(words) if is_unknown => (code, words.message.clone()),
            Some(words) => (words.code, words.message.clone()),
            None => (code, format!("terminating connection: {self}").into()),
        };
        let detail = format!("With the server connection, {state} was lost.{unknown}");
        Report::new(ErrorSource::Server, code, text).detail(detail)
    }

    /// A limit of the server's that the client itself has passed is told by the server's own code.
    fn code(&self) -> SqlState {
        let own = [SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, SqlState::TRANSACTION_TIMEOUT];
        let said = self.words.as_ref().map(|words| words.code);
        said.filter(|code| own.contains(code)).unwrap_or(SqlState::SERIALIZATION_FAILURE)
    }
}

impl std::fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.words {
            Some(words) => write!(f, "{} ({})", words.message, words.code),
            None => f.write_str(self.why),
        }
    }
}
