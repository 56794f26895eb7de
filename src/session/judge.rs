//! Where a request may run: what it does, what the client has seen, and what was wished for.

use super::*;
use crate::sql::effect::TransactionMode;

impl Session {
    /// Takes note of the level that holds from here on, and of what has been seen by whoever shares that. A request goes by the
    /// history as it is when it is routed, whatever others do meanwhile: so it stays that for as long as what was granted
    /// then serves.
    pub(super) fn agree(&mut self, held: Option<&Held<'_>>, world: &World<'_>) {
        let level = self.own.consistency().unwrap_or(world.level);
        self.own.join(world.scopes, level, world.now, &mut self.history);
        self.recall(|history| history.agree(level, world.now));
        let shared = self.own.shared().map(scope::read);
        match (held, shared) {
            (None, shared) => {
                self.history = shared.unwrap_or(self.history);
                self.tenure.has_outrun = false;
            }
            (Some(_), None) => {}
            (Some(_), Some(_)) if self.tenure.routed || self.is_bound() => {}
            (Some(held), Some(shared)) => {
                let is_its_own = shared.shown().is_some_and(|shown| shown.node == held.node);
                self.tenure.has_outrun |= shared != self.history && !is_its_own;
                self.history = shared;
            }
        }
    }

    /// Whether a failover may have undone what the client did or saw, and the client is to be told so; it is told once.
    pub(super) fn may_have_lost(&mut self, world: &World<'_>) -> bool {
        if !self.doubts(world) {
            return false;
        }
        self.recall(|history| history.lost_track(world.now));
        world.rules.on_lost_write == OnLostWrite::Error
    }

    pub(super) fn doubts(&self, world: &World<'_>) -> bool {
        world.lineage.is_some_and(|lineage| lineage.doubts(&self.history))
    }

    pub(super) fn terms(&self, world: &World<'_>) -> Terms {
        Terms {
            level: self.own.consistency().unwrap_or(world.level),
            max_staleness: self.own.max_staleness().unwrap_or(world.rules.max_staleness),
            commits: self.settings.commits(),
            ..Terms::of(world.rules)
        }
    }

    /// Changes what the client has seen, and with it what those have who share that.
    pub(super) fn recall(&mut self, change: impl Fn(&mut History)) {
        let before = self.history;
        change(&mut self.history);
        self.tenure.has_outrun |= self.history != before;
        if let Some(shared) = self.own.shared() {
            scope::change(shared, change);
        }
    }

    /// A request goes to the server that is held, or its answer has come from there.
    pub(super) fn follow(&mut self, held: &Held<'_>, now: Instant) {
        if held.role == Role::Replica && self.tenure.has_outrun {
            return self.recall(|history| history.lost_track(now));
        }
        match self.own.shared() {
            Some(shared) => scope::answered(shared, &self.history, held.role, held.node, now),
            None => self.history.used(held.role, held.node, now),
        }
    }

    /// Where the request at the head of `bytes` may run; `None`: that cannot be told before more of it is here.
    pub(super) fn judge(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
    ) -> Option<Judged> {
        if let Some(route) = self.detour(span, bytes, world) {
            return Some(Judged { route, effects: Effects::NONE });
        }
        let (access, effects) = match span.tag() {
            FrontendTag::QUERY => {
                let wish = self.wish();
                routable(self.head_of(span.body(bytes), world), wish)
            }
            FrontendTag::FUNCTION_CALL => UNSURE,
            _ => self.judge_batch(bytes, world)?,
        };
        let access = self.deferred_access(access, span, bytes, world.rules).unwrap_or(access);
        Some(Judged { route: self.route(access, world), effects })
    }

    /// Where a request may run that does this.
    pub(super) fn route(&self, access: Access, world: &World<'_>) -> Route {
        let holds = self.settings.proofs_hold() && !self.is_misread;
        let access = if holds { access } else { access.max(Access::Unsure) };
        let terms = self.terms(world);
        let route = routing::route(access, &self.history, &terms, world.rules.reads, world.now);
        let route = match &self.deferred {
            Some(deferred) if deferred.moved_from.is_some() => {
                Route::Primary { why: Why::Promoted, shown: deferred.moved_from }
            }
            Some(_) => route.in_transaction(),
            None => route,
        };
        route.as_wished(self.wish())
    }

    /// What the client wishes for its statements. Within a block that may write, nothing that fails on a replica could be
    /// sent again: no wish for one counts there.
    pub(super) fn wish(&self) -> Option<Hint> {
        let is_plain =
            self.deferred.as_ref().is_some_and(|deferred| deferred.mode != TransactionMode::ReadOnly);
        let may_write = is_plain || self.promotable.as_ref().is_some_and(|block| block.may_write());
        self.own.wish().filter(|wish| *wish == Hint::Primary || !may_write)
    }

    pub(super) fn routable(&self, statement: &Statement) -> Judgement {
        routable(statement, self.wish())
    }

    /// A batch may leave the primary if all of it, up to its Sync, is here and reads only: it is one implicit
    /// transaction, and what has been sent to a replica cannot be taken back when a write follows.
    pub(super) fn judge_batch(&mut self, bytes: &[u8], world: &mut World<'_>) -> Option<Judgement> {
        let mut parsed: SmallVec<[(&[u8], Judgement); 4]> = SmallVec::new();
        for (place, message) in messages(bytes).enumerate() {
            let Ok((tag, body)) = message else { return Some(UNSURE) };
            let judged = match tag {
                FrontendTag::SYNC => return Some(HARMLESS),
                FrontendTag::PARSE => {
                    let Some((name, judged)) = self.judge_parse(place, body, world) else {
                        return Some(UNSURE);
                    };
                    parsed.push((name, judged));
                    judged
                }
                FrontendTag::BIND => {
                    let Some(bind) = Bind::new(body) else { return Some(UNSURE) };
                    match parsed.iter().rev().find(|(name, _)| *name == bind.statement) {
                        Some(&(_, judged)) => judged,
                        None => self.prepared_access(bind.statement, world),
                    }
                }
                FrontendTag::DESCRIBE | FrontendTag::CLOSE | FrontendTag::EXECUTE => HARMLESS,
                _ => return Some(UNSURE),
            };
            if judged.0 != Access::Read {
                return Some(judged);
            }
        }
        // Waiting cannot go on for ever: a batch without an end in sight is the primary's.
        (bytes.len() >= LOOKAHEAD).then_some(UNSURE)
    }

    /// The name that a Parse gives, and by what its statement is routed: `place` messages stand before it. `None`: it is
    /// malformed.
    fn judge_parse<'a>(
        &mut self,
        place: usize,
        body: &'a [u8],
        world: &mut World<'_>,
    ) -> Option<(&'a [u8], Judgement)> {
        if place > 0 {
            let parse = Parse::new(body)?;
            return Some((parse.name, self.routable(&world.classify(parse.text))));
        }
        if self.head.is_none() {
            self.head = Some(Head::Parse(world.prepare(&Parse::new(body)?, self.settings.analysis())));
        }
        let name = Parse::name(body)?;
        self.head.as_ref().map(|head| (name, self.routable(head.statement())))
    }

    fn prepared_access(&mut self, name: &[u8], world: &mut World<'_>) -> Judgement {
        let wish = self.wish();
        self.find(name, world).map_or(UNSURE, |named| routable(&named.statement, wish))
    }

    /// The statement of this name, looked at anew if the catalog has changed since.
    pub(super) fn find(&mut self, name: &[u8], world: &mut World<'_>) -> Option<&Named> {
        let stamp = world.stamp();
        let renews = self.is_renewing();
        let settings = self.settings.analysis();
        let named = self.statements.as_mut()?.find_mut(name)?;
        if renews {
            let Prepared { text, types, .. } = &*named.prepared;
            named.prepared = world.registry.intern(text, types, world.generation, settings);
        }
        if named.version != stamp {
            named.statement = world.classify(&named.prepared.text);
            // The statement itself stays what was prepared: if DDL has changed what it returns, its server says so (0A000), and
            // only who is told the new columns gets them.
            named.version = stamp;
        }
        Some(named)
    }
}

/// Where a request may run, and the effects of the statement that decided it.
pub(super) struct Judged {
    pub route: Route,
    effects: Effects,
}

impl Judged {
    pub fn listens(&self) -> bool {
        self.effects.any(Effects::LISTEN.with(Effects::UNLISTEN))
    }
}

/// By what a statement is routed, and what it leaves behind.
pub(super) type Judgement = (Access, Effects);

const UNSURE: Judgement = (Access::Unsure, Effects::NONE);

const HARMLESS: Judgement = (Access::Read, Effects::NONE);

/// The access by which a statement is routed, and what it leaves behind.
pub(super) fn routable(statement: &Statement, wish: Option<Hint>) -> Judgement {
    (statement.routable_as(wish), statement.effects)
}
