//! Snapshots, as far as the barrier needs them. Pure.

/// Which transactions a server's snapshot does not see: those in progress, and those yet to come.
///
/// Source: <https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// From here on none has ended yet.
    pub xmax: u64,
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip_list`.
    pub fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.split(':');
        let (_xmin, xmax, list) = (parts.next()?, parts.next()?, parts.next()?);
        let in_progress = list.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().ok());
        Some(Snapshot { xmax: xmax.parse().ok()?, in_progress: in_progress.collect::<Option<_>>()? })
    }

    /// Whether this transaction's effects are seen, if it committed.
    pub fn sees(&self, id: u64) -> bool {
        id < self.xmax && !self.in_progress.contains(&id)
    }

    /// Transactions that are not seen here, and that a server whose snapshot ends at `horizon` may show; at most `most`.
    pub fn unseen_below(&self, horizon: u64, most: usize) -> Vec<u64> {
        let running = self.in_progress.iter().copied().filter(|id| *id < horizon);
        running.chain(self.xmax..horizon.max(self.xmax)).take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_server_may_show_and_this_one_does_not() {
        let snapshot = Snapshot::parse("100:105:100,103").unwrap();
        assert_eq!(snapshot.unseen_below(104, 10), [100, 103]);
        assert_eq!(snapshot.unseen_below(107, 10), [100, 103, 105, 106]);
        assert_eq!(snapshot.unseen_below(107, 3), [100, 103, 105]);
        assert!(snapshot.sees(104) && !snapshot.sees(103) && !snapshot.sees(105));
        assert_eq!(Snapshot::parse("100:100:").unwrap().unseen_below(100, 10), [0; 0]);
        assert_eq!(Snapshot::parse("100:x:"), None);
    }
}
