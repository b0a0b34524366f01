"""People decide: a queue of candidates, their decisions, the rules made of them, and the chain that keeps all of it.

Functions take first the `Engine` of `store.review.open_review(folder_or_url)`, and a `Person` where someone acts. Who
may do what is `people.PERMISSIONS`; an act without permission raises InputError `review-not-allowed`. Times are seconds
since 1970, UTC. Whatever changes a row also writes an audit entry, in the same transaction. Records: `records.py`.

people.py     first_token(db) -> str | None; invite(db, by, role) -> str; accept(db, token, name, password) -> Person;
              sign_in(db, name, password) -> Person | None; person(db, id) -> Person | None; people(db) -> list[Person];
              change(db, by, id, *, role=None, active=None) -> Person; require(person, act); may(person, act) -> bool
              change_password(db, person, password) (all sessions of the person end)
sessions.py   begin(db, person) -> str; holder(db, token) -> Person | None; end(db, token)
queue.py      put(db, evidence, *, by, decoys=()) -> int; items(db, *, study_id=None, standing=None, limit, offset);
              counts(db, study_id=None) -> dict[Standing, int]; item(db, id) -> Item; evidence_of(db, id) -> Evidence;
              reserve_next(db, person, *, study_id=None) -> Reservation | None; release(db, person, id);
              set_priority(db, lead, id, priority); wanted(db, study_id=None) -> list[Wanted]
decisions.py  decide(db, person, draft) -> Decision (StaleForm); undo(db, person, number=None) -> Decision;
              last_decision(db, person), own_decision(db, person, id) -> Decision | None;
              adjudicate(db, lead, draft) -> Decision; history(db, id, viewer) -> list[Decision];
              standing_decisions(db, id) -> list[Decision]
audit.py      head(db) -> "NUMBER:HASH"; entries(db, *, after=0, limit) -> list[Entry];
              verify(db, known_head=None) -> list[Fault] (empty: whole)
agreement.py  agree(ratings, *, seed) -> Agreement; agreement_of(db, study_id=None) -> Agreement | None;
              decoy_rates(db, study_id=None) -> dict[name, Interval]  ("" is pooled)
rules.py      draft_rule(db, person, ...) -> Rule; activate(db, lead, id) -> Rule; rules(db, state=None) -> list[Rule];
              rule(db, id) -> Rule; expire(db, now) -> list[Rule]
recheck.py    recheck(db, model, digest, chosen, *, by) -> list[RuleCheck]; rechecks(db, rule_id) -> list of checks
guard.py      guard(model, digest, prompts, rules, evidence) -> list[Guarded]
"""
