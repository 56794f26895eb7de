//! How many reads per second may go to the primary instead of a replica. Pure.

use std::time::Instant;

/// Tokens that come back at a steady rate; a tenth of a second's worth is kept for bursts.
#[derive(Debug, Default)]
pub struct Bucket {
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    /// Whether one more may go. `rate`: how many per second.
    pub fn take(&mut self, rate: u32, now: Instant) -> bool {
        let most = (f64::from(rate) / 10.0).max(1.0);
        let since = self.filled.map(|filled| now.saturating_duration_since(filled).as_secs_f64());
        self.tokens = since.map_or(most, |since| (self.tokens + since * f64::from(rate)).min(most));
        self.filled = Some(now);
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_and_then_the_rate() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let taken = |bucket: &mut Bucket, now| (0..1000).filter(|_| bucket.take(100, now)).count();
        assert_eq!(taken(&mut bucket, start), 10);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(50)), 5);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(60)), 10);
        assert!(Bucket::default().take(1, start), "the slowest rate lets one go");
    }
}
