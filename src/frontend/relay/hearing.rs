//! A client that listens: it is told what the shared listener has heard for it, where a notification may stand.

use super::*;

impl Relay {
    /// Hears its channels from where it goes on, before it leaves where it heard them. What is notified in between may come
    /// twice: that is better than never.
    pub(super) async fn hear_on(&mut self) -> Result<(), Report> {
        let Some(before) = self.subscription.take() else { return Ok(()) };
        let now = poll_fn(|cx| Poll::Ready(self.subscription(cx))).await;
        // All at once: each answer may take a while.
        let answers: Vec<_> = self.session.channels().names().map(|channel| now.listen(channel)).collect();
        for answer in answers {
            answer.await.map_err(|Declined| no_listener())?;
        }
        // What was committed before it was heard here may still be on its way there.
        before.catch_up().await;
        while let Some(notification) = before.take() {
            self.sent += notification.len() as u64;
            self.to_client.extend(&notification);
        }
        self.session.on_notified(Instant::now());
        Ok(())
    }

    /// Has a channel heard, and looks out as above meanwhile.
    pub(super) async fn listen(&mut self, channel: String) -> Option<Farewell> {
        self.card().waits(Instant::now());
        let subscription = poll_fn(|cx| Poll::Ready(self.subscription(cx))).await;
        // Both branches are cancel safe: what the session does not know of is taken back before anything is delivered.
        let answer = tokio::select! {
            biased;
            answer = subscription.listen(&channel) => Ok(answer),
            denied = poll_fn(|cx| self.poll_while_waiting(cx)) => Err(denied),
        };
        self.card().rests(self.session.prepared_statements());
        self.fresh = true;
        match answer {
            Ok(Ok(())) => self.session.on_listening(channel),
            Ok(Err(Declined)) => self.session.on_listen_declined(),
            Err(Denied::Report(report)) => self.deny(&report),
            Err(Denied::Gone(farewell)) => return Some(farewell),
        }
        None
    }

    pub(super) fn subscription(&mut self, cx: &Context<'_>) -> Arc<Subscription> {
        let new = || Arc::new(Subscription::new(&self.pools.database, cx.waker()));
        self.subscription.get_or_insert_with(new).clone()
    }

    /// Tells a client that listens what it has heard, between its requests and outside of a transaction: behind the
    /// ReadyForQuery that ended one, or at once if it is idle.
    pub(super) fn deliver(&mut self) -> Option<Farewell> {
        let subscription = self.subscription.as_ref()?;
        let channels = self.session.channels();
        if subscription.channels() != channels.len() {
            subscription.keep(channels.len(), |channel| channels.has(channel));
        }
        if !self.may_be_told() {
            return None;
        }
        self.pass_on_letters(MAX_UNREAD);
        self.subscription.as_ref()?.end().map(|why| Farewell::Fatal(Box::new(why)))
    }

    /// Ahead of a ReadyForQuery or of the answer to an UNLISTEN. That there will be no more is told behind it.
    pub(super) async fn tell(&mut self, tidings: Tidings) {
        if let (Some(subscription), Tidings::Own) = (self.subscription.clone(), tidings) {
            subscription.catch_up().await;
        }
        self.session.on_told();
        // All: who stops listening would not hear the rest any more.
        self.pass_on_letters(usize::MAX);
        self.fresh = true;
    }

    /// Whether [`deliver`](Self::deliver) would tell the client something.
    pub(super) fn has_tidings(&self) -> bool {
        let Some(subscription) = &self.subscription else { return false };
        self.to_client.len() <= MAX_UNREAD && self.may_be_told() && subscription.has_tidings()
    }

    /// Whether a notification may stand here.
    fn may_be_told(&self) -> bool {
        self.session.is_between_requests() && self.session.can_be_told()
    }

    /// What it has heard, as long as no more than `unread` bytes wait for it to read.
    fn pass_on_letters(&mut self, unread: usize) {
        let Some(subscription) = &self.subscription else { return };
        let channels = self.session.channels();
        let before = self.sent;
        while self.to_client.len() <= unread
            && let Some(notification) = subscription.take()
        {
            // What was under way when the client stopped listening is not for it any more.
            if notification_channel(&notification).is_some_and(|channel| channels.has(channel)) {
                self.sent += notification.len() as u64;
                self.to_client.extend(&notification);
            }
        }
        if self.sent != before {
            self.session.on_notified(Instant::now());
        }
    }
}

pub(super) fn no_listener() -> Report {
    let text = "terminating connection because notifications may have been missed";
    Report::new(ErrorSource::Pooler, SqlState::ADMIN_SHUTDOWN, text)
        .detail("The configuration of its database has changed, and there is no connection to listen with.")
        .hint("Connect and LISTEN again.")
}
