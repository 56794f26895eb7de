//! A client that goes on elsewhere: in the pools that a reload has made, or in the next process.

use super::*;

impl Relay {
    pub(super) async fn move_on(mut self: Box<Self>) {
        self.settle_up().await;
        self.hand_over();
    }

    /// Nothing that the client has seen goes along but that it has seen something: so the primary shows it first.
    async fn settle_up(&mut self) {
        if let Some(shown) = self.session.shown()
            && let Err(report) = self.pools.see_off(shown).await
        {
            tracing::warn!(client = self.card().id, %report, "handed over all the same");
        }
    }

    /// The client goes on in the next process. Its entry here stays until it is on its way.
    fn hand_over(mut self: Box<Self>) {
        self.count_bytes();
        let Relay { client, session, from_client, registration, pools, .. } = *self;
        let leaving = Leaving {
            card: registration.card(),
            credential: pools.credential(),
            uses_sequences: pools.sequences() == Sequences::Used,
            early: from_client.filled(),
            session: &session,
        };
        let handed = Passenger::new(client, leaving)
            .map(|passenger| registration.frontend().clients.hand_over(passenger));
        if !matches!(handed, Ok(Ok(()))) {
            tracing::warn!(client = registration.card().id, "a client could not be handed over");
        }
    }

    pub(super) async fn move_at_rest(&mut self) -> Option<Farewell> {
        match self.move_over().await {
            Err(Denied::Gone(farewell)) => Some(farewell),
            // Nobody asks for anything now. Who asks is told.
            Ok(()) | Err(Denied::Report(_)) => None,
        }
    }

    /// Goes on in the pools that a reload has put into the place of these. The client holds no server connection: what it
    /// has (settings, names, what it has seen) it takes along.
    pub(super) async fn move_over(&mut self) -> Result<(), Denied> {
        let frontend = self.registration.frontend().clone();
        self.card().obeyed(Order::Move);
        self.card().rests(self.session.prepared_statements());
        let before = self.pools.clone();
        let Some(database) = frontend.directory.find(&before.database.name) else {
            return Err(Denied::Gone(Farewell::Fatal(Box::new(
                killed().detail(format!("Database \"{}\" is not configured any more.", before.database.name)),
            ))));
        };
        if let Some(shown) = self.session.shown() {
            before.see_off(shown).await.map_err(Denied::Report)?;
        }
        // Those of the pools that it leaves.
        self.count_pins(Pins::default());
        let left = std::mem::replace(&mut self.pools, before.heir(&database).enter());
        self.notes = self.seat.notes(&database);
        let heard = self.hear_on().await;
        // Somebody has to use those before until then.
        drop(left);
        heard.map_err(|why| Denied::Gone(Farewell::Fatal(Box::new(why))))?;
        let config = frontend.access.load().config.clone();
        self.session.moved(self.pools.rules().mode, Instant::now());
        self.watch = Limits::new(&config, &self.pools);
        self.max_message = config.listen.max_message;
        self.fresh = true;
        Ok(())
    }

    pub(super) fn can_be_handed_over(&self) -> bool {
        self.lease.is_none()
            && self.to_client.is_empty()
            && self.seat.outbox.settle(Owner { client: self.card().id, to: Side::Client }, self.last.client)
            && !self.client.is_tls()
            && self.session.is_portable()
            && passage::has_room(&self.session, self.from_client.len())
    }

    /// Why it never can be; `None`: it can be sooner or later.
    pub(super) fn keeps_it_here(&self) -> Option<&'static str> {
        if self.client.is_tls() {
            return Some("it is encrypted");
        }
        let why = self.session.keeps_it_here();
        why.or((!passage::has_room(&self.session, 0)).then_some("its prepared statements are too long"))
    }
}
