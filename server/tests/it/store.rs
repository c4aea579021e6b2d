//! The conformance suite of the store: one list, run for each database in one loop.
//! A case that nobody lists is dead code, which the lints refuse.

mod authorities;
mod certificates;
mod changes;
mod documented;
mod entities;
mod filters;
mod hostile;
mod keys;
mod log;
mod lost;
mod parties;
mod partitions;
mod proofs;
mod proposals;
mod queries;
mod rate;
mod replicas;
mod reports;
mod revisions;
mod roles;
mod support;
mod units;
mod users;
mod views;

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
        case("proofs::checkpoints", proofs::checkpoints),
        case("proofs::turns", proofs::turns),
        case("proofs::turns_at_once", proofs::turns_at_once),
        case("proofs::tiles", proofs::tiles),
        case("proofs::leaves", proofs::leaves),
        case("log::without_a_log", log::without_a_log),
        case("units::together", units::together),
        case("units::of_another_epoch", units::of_another_epoch),
        case("units::a_bad_one", units::a_bad_one),
        case("filters::alone_and_in_pairs", filters::alone_and_in_pairs),
        case("filters::by_index", filters::by_index),
        case("reports::once", reports::once),
        case("reports::behind_decisions", reports::behind_decisions),
        case("queries::columns", queries::columns),
        case("queries::inputs", queries::inputs),
        case("queries::look_alike_ids", queries::look_alike_ids),
        case("queries::filters", queries::filters),
        case("queries::nul", queries::nul),
        case("changes::agents", changes::agents),
        case("users::registered", users::registered),
        case("users::invitations", users::invitations),
        case("parties::versions", parties::versions),
        case("changes::enroll", changes::enroll),
        case("changes::enroll_races", changes::enroll_races),
        case("changes::states", changes::states),
        case("certificates::revoked", certificates::revoked),
        case("authorities::steps", authorities::steps),
        case("keys::renewals", keys::renewals),
        case("keys::recoveries", keys::recoveries),
        case("keys::locks", keys::locks),
        case("keys::lock_races", keys::lock_races),
        case("keys::with_their_agent", keys::with_their_agent),
        case("keys::lists", keys::lists),
        case("keys::profiles", keys::profiles),
        case("revisions::round_trip", revisions::round_trip),
        case("revisions::news", revisions::news),
        case("revisions::a_large_one", revisions::a_large_one),
        case("proposals::decided_once", proposals::decided_once),
        case("proposals::bounded", proposals::bounded),
        case("replicas::told_and_forgotten", replicas::told_and_forgotten),
        case("changes::the_feed", changes::the_feed),
        case("changes::void_tokens", changes::void_tokens),
        case("changes::look_alike_agents", changes::look_alike_agents),
        case("changes::blobs", changes::blobs),
        case("entities::versions", entities::versions),
        case("entities::look_alikes", entities::look_alikes),
        case("entities::bulk", entities::bulk),
        case("documented::examples", documented::examples),
        case("views::answers", views::answers),
        case("views::awkward_leaves", views::awkward_leaves),
        case("hostile::a_failing_insert", hostile::a_failing_insert),
        case("hostile::a_wake_up", hostile::a_wake_up),
        only(Kind::Sqlite, "hostile::no_replace", hostile::no_replace),
        only(Kind::Sqlite, "hostile::wal_size", hostile::wal_size),
        only(Kind::Postgres, "lost::refused", lost::refused),
        only(Kind::Postgres, "lost::after_commit", lost::after_commit),
        only(Kind::Postgres, "lost::before_commit", lost::before_commit),
        only(Kind::Postgres, "lost::late_commit", lost::late_commit),
        only(Kind::Postgres, "lost::with_reports", lost::with_reports),
        only(Kind::Postgres, "lost::terminated", lost::terminated),
        only(Kind::Postgres, "lost::while_idle", lost::while_idle),
        only(Kind::Postgres, "lost::durability", lost::durability),
        only(Kind::Postgres, "lost::notification", lost::notification),
        only(Kind::Postgres, "lost::service_role", lost::service_role),
        only(
            Kind::Postgres,
            "partitions::under_load",
            partitions::under_load,
        ),
        only(
            Kind::Postgres,
            "partitions::pruned_plans",
            partitions::pruned_plans,
        ),
        only(
            Kind::Postgres,
            "partitions::none_to_write",
            partitions::none_to_write,
        ),
        only(
            Kind::Postgres,
            "partitions::maintenance",
            partitions::maintenance,
        ),
        only(
            Kind::Postgres,
            "partitions::each_guarded",
            partitions::each_guarded,
        ),
        only(Kind::Postgres, "roles::auditor", roles::auditor),
        only(Kind::Postgres, "roles::add_only", roles::add_only),
        only(Kind::Postgres, "roles::owner", roles::owner),
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

#[test]
#[ignore = "a measurement, not a test"]
fn sqlite_rate() {
    support::run(Kind::Sqlite, vec![case("rate::commits", rate::commits)]);
}

#[test]
#[ignore = "a measurement, not a test"]
fn postgres_rate() {
    support::run(Kind::Postgres, vec![case("rate::commits", rate::commits)]);
}
