//! What a statement that goes to a server leads to: for the client's state, once it has succeeded, and for what its session
//! leaves behind, whatever becomes of it.

use super::*;
use crate::sql::body;

impl Session {
    /// Whether `then` takes away a name of the client's that the server knows by another name, which others share.
    fn is_shared(&self, then: Option<&Then>) -> bool {
        let Some(Then::Deallocated(name)) = then else { return false };
        let knows = |statements: &ClientStatements| statements.find(name).is_some();
        self.naming == Naming::Ours && self.statements.as_deref().is_some_and(knows)
    }

    /// Whether the state of the transaction must be known first: see [`stand_in`](Self::stand_in).
    pub(super) fn must_know_status(&self, then: Option<&Then>) -> bool {
        self.is_shared(then) && self.replies.ready_owed() > 0
    }

    /// Ahead of DEALLOCATE: gives the server an empty statement of the client's own name to remove, so that it answers as
    /// if that had been the one.
    pub(super) fn stand_in(&mut self, then: Option<&Then>, edits: &mut Edits) {
        let Some(Then::Deallocated(name)) = then.filter(|then| self.is_shared(Some(then))) else { return };
        self.place_empty(name, edits);
    }

    /// What a statement leads to once it has succeeded.
    pub(super) fn consequence(&mut self, statement: &Statement, text: &[u8]) -> Option<Then> {
        let then = self.consequence_for_state(statement, text);
        if !statement.effects.any(Effects::UNLISTEN) || self.channels.is_empty() || !self.may_remember(text) {
            return then;
        }
        Some(Then::Unlistened(effect::unlistened(text), then.map(Box::new)))
    }

    fn consequence_for_state(&mut self, statement: &Statement, text: &[u8]) -> Option<Then> {
        let effects = statement.effects;
        if effects.any(Effects::DISCARD_ALL) {
            return Some(Then::Discarded);
        }
        if effects.any(Effects::DEALLOCATE_ALL) {
            return Some(Then::DeallocatedAll);
        }
        if effects.any(Effects::PREPARED_NAME)
            && let Some(Deallocated::Name(name)) = effect::deallocated(text)
        {
            return Some(Then::Deallocated(name.into_bytes().into()));
        }
        if effects.any(Effects::PREPARE) && statement.statements == 1 {
            return self.prepare_by_sql(text);
        }
        if !effects.any(Effects::SETTINGS.with(Effects::SET_CONFIG)) {
            return None;
        }
        let changes = if self.may_remember(text) { setting_changes(effects, text) } else { None };
        match changes {
            Some(changes) if changes.is_empty() => None,
            Some(changes) => Some(Then::Settings(changes)),
            None => {
                self.pin(Effects::HIDDEN_SETTINGS);
                None
            }
        }
    }

    /// Whether what this text changes may be remembered until its transaction is over, too.
    fn may_remember(&self, text: &[u8]) -> bool {
        let completed = self.tenure.completed.as_ref().map_or(0, |completed| completed.weight());
        self.replies.weight() + completed + text.len() < MAX_REMEMBERED
    }

    /// PREPARE follows its client; what cannot follow pins.
    fn prepare_by_sql(&mut self, text: &[u8]) -> Option<Then> {
        let name = effect::prepared(text).filter(|_| self.sql_statements.has_room(text));
        if name.is_none() {
            self.pin(Effects::PREPARE);
        }
        name.map(|name| Then::Prepared(name, text.into()))
    }

    /// A statement goes to the server: what that means for the client, whatever becomes of it.
    pub(super) fn sent<'t>(
        &mut self,
        statement: &Statement,
        text: impl Fn() -> &'t [u8],
        held: &mut Held<'_>,
        world: &World<'_>,
        edits: &mut Edits,
    ) {
        let effects = self.effects_of(statement, &text, world.catalog);
        if !effects.is_none() {
            self.leaves(effects, statement, edits);
            if analysis::changes_reading(effects, &text) {
                self.reading = Reading::Apart;
            }
        }
        if effects.any(Effects::VACATES) {
            edits.vacated = effect::vacated(text()).map(String::into_boxed_str);
            edits.events.vacates |= edits.vacated.is_some();
        }
        self.tenure.doubts_pins |= !self.tenure.pins.is_empty() && may_end_state(statement);
        // A temporary relation is seen by its own session alone, which is pinned: nobody else's names change their meaning.
        let is_private = statement.effects.any(Effects::TEMPORARY) && statement.statements == 1;
        self.ddl |= statement.effects.any(Effects::DDL) && !is_private;
        self.unknown_name |= matches!(statement.reason, Reason::UnknownFunction | Reason::UnknownRelation);
        self.tenure.may_be_in_block |=
            statement.transaction.is_some() || (statement.statements > 1 && statement.access != Access::Read);
        let stake = Stake::of(statement);
        self.replies.risk(if held.role == Role::Replica { stake.on_replica() } else { stake });
        if statement.access != Access::Read && !is_only_session_state(statement) {
            self.mark_write(held, world);
        }
    }

    /// What running the statement leaves behind, with what only its literals tell, what it executes by name, and what runs
    /// when it writes.
    pub(super) fn effects_of<'t>(
        &self,
        statement: &Statement,
        text: impl Fn() -> &'t [u8],
        catalog: &dyn Catalog,
    ) -> Effects {
        let mut effects = statement.effects;
        if effects.any(Effects::BLOCK) {
            effects = effects.with(effect::block(text(), catalog));
        }
        if effects.any(Effects::PREPARED_NAME) {
            effects = effects.with(self.executes).with(self.executed_effects(text()));
        }
        if statement.access != Access::Read {
            effects = effects.with(catalog.writes().without(Effects::SEQUENCE));
        }
        if effects.any(Effects::DDL) && self.settings.may_create_temporary() {
            effects = effects.with(Effects::TEMPORARY);
        }
        effects
    }

    /// What a statement leaves behind in its session.
    fn leaves(&mut self, effects: Effects, statement: &Statement, edits: &mut Edits) {
        let asks_sequences = effects.any(Effects::SEQUENCE);
        edits.events.sequence_state |= asks_sequences;
        if effects.any(Effects::PREPARE) {
            self.executes = self.executes.with(run_by_name(effects.without(Effects::PREPARE)));
        }
        let follows = effects.any(Effects::PREPARE) && statement.statements == 1;
        let causes = if follows { effects.without(Effects::PREPARE) } else { effects };
        self.pin(causes.without(Effects::SEQUENCE));
        if effects.any(Effects::UNKNOWN) && self.mode != PoolMode::Session {
            // Whatever can be found out is asked for; what cannot does not reach anybody else.
            self.tenure.is_soiled = true;
            self.pin_by(Pins::all_checkable());
        }
    }

    pub(super) fn mark_write(&mut self, held: &mut Held<'_>, world: &World<'_>) {
        if held.role != Role::Primary {
            return;
        }
        self.tenure.wrote = true;
        self.replies.risk(Stake::WORK);
        let now = world.now;
        self.recall(|history| history.wrote(now));
        held.state.sequences_of = Some(world.client);
        self.has_drawn = true;
        if world.sequences == Sequences::Used && world.pin_room == PinRoom::Open {
            self.pin(Effects::SEQUENCE);
        }
    }

    fn pin_by(&mut self, causes: Pins) {
        self.tenure.pins = self.tenure.pins.with(causes);
        self.tenure.fresh_pins = self.tenure.fresh_pins.with(causes);
        self.tenure.doubts_pins = true;
    }

    pub(super) fn pin(&mut self, effects: Effects) {
        let causes = Pins::of(effects);
        if self.mode != PoolMode::Session && !causes.is_empty() {
            self.pin_by(causes);
        }
    }
}

/// What is left behind by a text that runs a statement with these effects by its name: it does not tell which settings change.
pub(super) fn run_by_name(effects: Effects) -> Effects {
    let hides = effects.any(Effects::SETTINGS.with(Effects::SET_CONFIG));
    if hides { effects.with(body::ANYTHING) } else { effects }
}

/// Whether running the statement changes what the session knows.
pub(super) fn has_consequence(statement: &Statement) -> bool {
    statement.effects.any(
        Effects::SETTINGS
            .with(Effects::SET_CONFIG)
            .with(Effects::PREPARE)
            .with(Effects::PREPARED_NAME)
            .with(Effects::DEALLOCATE_ALL)
            .with(Effects::DISCARD_ALL)
            .with(Effects::UNLISTEN),
    )
}

/// Whether state that pins a client may be gone once the statement has run.
fn may_end_state(statement: &Statement) -> bool {
    statement.effects.any(Effects::ENDS_STATE.with(Effects::BLOCK))
        || matches!(statement.reason, Reason::UnknownFunction | Reason::HarmfulFunction)
}

/// What a text does to settings by SET, RESET and `set_config`, if it can be told.
pub(super) fn setting_changes(effects: Effects, text: &[u8]) -> Option<Vec<SettingChange>> {
    let mut changes = match effects.any(Effects::SETTINGS) {
        true => effect::setting_changes(text)?,
        false => Vec::new(),
    };
    if effects.any(Effects::SET_CONFIG) {
        let names = effect::set_configs(text)?;
        changes.extend(names.into_iter().map(|name| SettingChange::Hidden { name }));
    }
    Some(changes)
}

/// Transaction commands and settings are not data: they make no later read stale.
fn is_only_session_state(statement: &Statement) -> bool {
    let is_quiet = matches!(statement.reason, Reason::SessionCommand | Reason::Empty)
        && !statement.effects.any(Effects::DDL.with(Effects::HIDDEN_SETTINGS));
    is_quiet || statement.transaction.is_some_and(|verb| verb != TransactionVerb::PrepareTransaction)
}
