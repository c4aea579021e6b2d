//! The conformance suite of the store: one list, run for each database in one loop.
//! A case that nobody lists is dead code, which the lints refuse.

mod changes;
mod hostile;
mod log;
mod lost;
mod queries;
mod support;

use support::{Case, Kind, case, only};

fn cases() -> Vec<Case> {
    vec![
        case("log::a_log_keeps_its_id", log::a_log_keeps_its_id),
        case("log::the_head_moves", log::the_head_moves),
        case("log::a_dropped_transaction", log::a_dropped_transaction),
        case("log::a_dropped_future", log::a_dropped_future),
        case("log::concurrent_writers", log::concurrent_writers),
        case("log::large_batches", log::large_batches),
        case("log::an_event_stands_once", log::an_event_stands_once),
        case("log::append_only", log::append_only),
        case("log::checkpoints", log::checkpoints),
        case("log::without_a_log", log::without_a_log),
        case("queries::columns", queries::columns),
        case("queries::inputs", queries::inputs),
        case("queries::look_alike_ids", queries::look_alike_ids),
        case("queries::filters", queries::filters),
        case("queries::nul", queries::nul),
        case("changes::agents", changes::agents),
        case("changes::users", changes::users),
        case("changes::enroll", changes::enroll),
        case("changes::enroll_races", changes::enroll_races),
        case("changes::renew", changes::renew),
        case("changes::states", changes::states),
        case("changes::revisions", changes::revisions),
        case("changes::a_large_revision", changes::a_large_revision),
        case("changes::the_feed", changes::the_feed),
        case("changes::look_alike_agents", changes::look_alike_agents),
        case("changes::blobs", changes::blobs),
        case("hostile::a_failing_insert", hostile::a_failing_insert),
        case("hostile::a_wake_up", hostile::a_wake_up),
        only(Kind::Sqlite, "hostile::no_replace", hostile::no_replace),
        only(Kind::Sqlite, "hostile::wal_size", hostile::wal_size),
        only(Kind::Postgres, "lost::refused", lost::refused),
        only(Kind::Postgres, "lost::after_commit", lost::after_commit),
        only(Kind::Postgres, "lost::before_commit", lost::before_commit),
        only(Kind::Postgres, "lost::late_commit", lost::late_commit),
        only(Kind::Postgres, "lost::terminated", lost::terminated),
        only(Kind::Postgres, "lost::while_idle", lost::while_idle),
        only(Kind::Postgres, "lost::durability", lost::durability),
        only(Kind::Postgres, "lost::notification", lost::notification),
    ]
}

#[test]
fn sqlite_conforms() {
    support::run(Kind::Sqlite, cases());
}

#[test]
fn postgres_conforms() {
    support::run(Kind::Postgres, cases());
}
