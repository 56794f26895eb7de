//! What is at stake: whether something of what was sent may last, though its answer was lost.
//!
//! Requests up to one ReadyForQuery (a Query, or a batch up to its Sync) share a stake. A server that dies takes with it
//! what was not committed, so what matters is who may have committed: whatever works outside a block, and COMMIT.

use crate::sql::{Effects, Reason, Statement};
use crate::wire::backend::TransactionStatus;

/// What the requests up to one ReadyForQuery may do, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stake(u8);

impl Stake {
    pub const NOTHING: Stake = Stake(0);
    /// Something that lasts if its transaction is committed.
    pub const WORK: Stake = Stake(1);
    /// A transaction block begins.
    pub const BEGINS: Stake = Stake(1 << 1);
    /// A transaction block ends, and lasts.
    pub const COMMITS: Stake = Stake(1 << 2);
    /// A transaction block ends, and does not.
    pub const ROLLS_BACK: Stake = Stake(1 << 3);
    /// Nobody knows what it does.
    pub const UNCLEAR: Stake = Stake(1 << 4);
    /// A transaction block ends in which nothing can have been written.
    pub const CLOSES: Stake = Stake(1 << 5);

    /// What running a statement puts at stake, besides work.
    pub fn of(statement: &Statement) -> Stake {
        let verbs = [
            (Effects::BEGINS, Stake::BEGINS),
            (Effects::COMMITS, Stake::COMMITS),
            (Effects::ROLLS_BACK, Stake::ROLLS_BACK),
        ];
        let verbs = verbs.into_iter().filter(|(effect, _)| statement.effects.any(*effect));
        let known = verbs.fold(Stake::NOTHING, |all, (_, stake)| all.with(stake));
        if statement.reason == Reason::Unrecognised { known.with(Stake::UNCLEAR) } else { known }
    }

    /// The same on a replica, which writes nothing.
    pub fn on_replica(self) -> Stake {
        let closes = if self.any(Stake::COMMITS) { Stake::CLOSES } else { Stake::NOTHING };
        self.without(Stake::WORK.with(Stake::COMMITS).with(Stake::UNCLEAR)).with(closes)
    }

    pub const fn with(self, other: Stake) -> Stake {
        Stake(self.0 | other.0)
    }

    pub const fn without(self, other: Stake) -> Stake {
        Stake(self.0 & !other.0)
    }

    pub const fn any(self, other: Stake) -> bool {
        self.0 & other.0 != 0
    }

    /// The server waits for COPY data: what it works on is not done, and everything before it in the same transaction
    /// neither.
    pub fn waiting_for_copy(self) -> Stake {
        match self.any(Stake::COMMITS.with(Stake::ROLLS_BACK)) {
            true => self,
            false => self.without(Stake::WORK),
        }
    }

    /// Whether anything of it may have been committed when it was sent at `status`.
    fn may_last(self, status: TransactionStatus) -> bool {
        if self.any(Stake::UNCLEAR) {
            return true;
        }
        let works = self.any(Stake::WORK);
        match status {
            TransactionStatus::Idle => {
                // Work before BEGIN in the same implicit transaction becomes a part of the block; behind ROLLBACK it is on its own.
                self.any(Stake::COMMITS)
                    || (works && !self.any(Stake::BEGINS))
                    || self.works_behind_rollback()
            }
            TransactionStatus::InTransaction => self.any(Stake::COMMITS) || self.works_behind_rollback(),
            // Its end is a ROLLBACK, whatever it is called; what comes behind it may last.
            TransactionStatus::Failed => works && self.ends(),
        }
    }

    fn works_behind_rollback(self) -> bool {
        self.any(Stake::WORK) && self.any(Stake::ROLLS_BACK)
    }

    fn ends(self) -> bool {
        self.any(Stake::COMMITS.with(Stake::ROLLS_BACK).with(Stake::CLOSES))
    }

    /// Where the client stands behind it, if it was sent at `status`, as far as the client can know.
    fn leads_to(self, status: TransactionStatus) -> TransactionStatus {
        match status {
            // Which of several came last is not known: a client that is out of its block does no harm by a ROLLBACK, and one
            // that believes to be in it must not run outside.
            _ if self.any(Stake::BEGINS) => TransactionStatus::InTransaction,
            _ if self.ends() => TransactionStatus::Idle,
            status => status,
        }
    }
}

/// What was lost of the requests up to one ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    pub fate: Fate,
    /// What the client's ReadyForQuery says.
    pub status: TransactionStatus,
}

/// What became of requests whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing of it lasts.
    Undone,
    /// It asked for that, so that it is as good as answered.
    RolledBack,
    /// Nobody can say.
    Unknown,
}

/// What was lost of requests with these stakes, which were sent one after the other to a server that stood at `status`.
pub(super) fn losses(stakes: &[Stake], status: TransactionStatus) -> Vec<Loss> {
    let behind = |status: &mut TransactionStatus, stake: &Stake| {
        let before = *status;
        *status = stake.leads_to(before);
        Some((before, *stake, *status))
    };
    let sent: Vec<_> = stakes.iter().scan(status, behind).collect();
    let mut is_next_unknown = false;
    let mut losses: Vec<Loss> = Vec::with_capacity(sent.len());
    for (before, stake, after) in sent.into_iter().rev() {
        // Work in a block lasts if the COMMIT behind it did.
        let goes_on = after == TransactionStatus::InTransaction;
        is_next_unknown = stake.may_last(before) || (goes_on && is_next_unknown);
        let ends_in_vain = stake == Stake::ROLLS_BACK && before != TransactionStatus::Idle
            || stake == Stake::COMMITS && before == TransactionStatus::Failed;
        let fate = match is_next_unknown {
            true => Fate::Unknown,
            false if ends_in_vain => Fate::RolledBack,
            false => Fate::Undone,
        };
        let status = match after {
            TransactionStatus::Idle => TransactionStatus::Idle,
            TransactionStatus::InTransaction | TransactionStatus::Failed => TransactionStatus::Failed,
        };
        losses.push(Loss { fate, status });
    }
    losses.reverse();
    losses
}

#[cfg(test)]
mod tests {
    use super::*;
    use TransactionStatus::{Failed, Idle, InTransaction};

    fn told(stakes: &[Stake], status: TransactionStatus) -> Vec<(Fate, TransactionStatus)> {
        losses(stakes, status).into_iter().map(|loss| (loss.fate, loss.status)).collect()
    }

    #[test]
    fn work_outside_a_block_may_last_and_reads_do_not() {
        assert_eq!(told(&[Stake::WORK, Stake::NOTHING], Idle), [(Fate::Unknown, Idle), (Fate::Undone, Idle)]);
    }

    #[test]
    fn work_in_a_block_lasts_only_by_its_commit() {
        assert_eq!(told(&[Stake::WORK], InTransaction), [(Fate::Undone, Failed)]);
        assert_eq!(
            told(&[Stake::WORK, Stake::COMMITS, Stake::NOTHING], InTransaction),
            [(Fate::Unknown, Failed), (Fate::Unknown, Idle), (Fate::Undone, Idle)]
        );
        assert_eq!(
            told(&[Stake::WORK, Stake::ROLLS_BACK], InTransaction),
            [(Fate::Undone, Failed), (Fate::RolledBack, Idle)]
        );
    }

    #[test]
    fn a_block_that_was_begun_in_vain_takes_what_was_meant_for_it() {
        let begins = Stake::BEGINS.with(Stake::WORK);
        assert_eq!(told(&[begins], Idle), [(Fate::Undone, Failed)]);
        assert_eq!(
            told(&[Stake::BEGINS, Stake::WORK, Stake::COMMITS], Idle),
            [(Fate::Unknown, Failed), (Fate::Unknown, Failed), (Fate::Unknown, Idle)]
        );
        assert_eq!(told(&[begins.with(Stake::COMMITS)], Idle), [(Fate::Unknown, Failed)]);
    }

    #[test]
    fn what_had_failed_cannot_last() {
        assert_eq!(
            told(&[Stake::WORK, Stake::COMMITS, Stake::WORK], Failed),
            [(Fate::Undone, Failed), (Fate::RolledBack, Idle), (Fate::Unknown, Idle)]
        );
        assert_eq!(told(&[Stake::ROLLS_BACK.with(Stake::WORK)], Failed), [(Fate::Unknown, Idle)]);
    }

    #[test]
    fn what_is_not_understood_may_have_committed() {
        assert_eq!(told(&[Stake::UNCLEAR], InTransaction), [(Fate::Unknown, Failed)]);
    }

    #[test]
    fn a_replica_commits_nothing() {
        let commit = Stake::COMMITS.on_replica();
        assert_eq!(
            told(&[commit, Stake::NOTHING], InTransaction),
            [(Fate::Undone, Idle), (Fate::Undone, Idle)]
        );
    }

    #[test]
    fn copy_that_waits_for_data_has_done_nothing() {
        assert_eq!(Stake::WORK.waiting_for_copy(), Stake::NOTHING);
        assert_eq!(Stake::WORK.with(Stake::COMMITS).waiting_for_copy(), Stake::WORK.with(Stake::COMMITS));
    }
}
