//! A thief with a copy of the folder who renews in step with its owner and never goes a
//! certificate ahead.

use crate::identity::renewal::{both_are_locked_out, conflicts, copy, two};
use crate::support::rpc::{allowed, call};

#[tokio::test]
async fn a_copy_that_renews_before_its_owner_and_lies_low_is_found() {
    let (first, second) = two().await;
    let owner = first.agent("research", &["researcher"]).await;
    allowed(&owner, call("web_search")).await;
    let thief = copy(&owner, &second, "stolen");
    thief.renew().await.expect("nobody can tell yet");
    owner
        .renew()
        .await
        .expect("could be one whose answer was lost");
    allowed(&owner, call("web_search")).await;
    // Both have gone through one renewal. The thief waits for the next one of its owner,
    // and gets there first again.
    conflicts(&thief).await;
    both_are_locked_out([&first, &second], [&owner, &thief]).await;
}

#[tokio::test]
async fn a_copy_that_renews_after_its_owner_and_lies_low_is_found() {
    let (first, second) = two().await;
    let owner = first.agent("research", &["researcher"]).await;
    allowed(&owner, call("web_search")).await;
    let thief = copy(&owner, &second, "stolen");
    owner.renew().await.expect("renews");
    thief
        .renew()
        .await
        .expect("in the moment before it is used");
    allowed(&owner, call("web_search")).await;
    // It goes on without a call, so that its own one does not count as used.
    thief.renew().await.expect("nobody can tell yet");
    conflicts(&owner).await;
    both_are_locked_out([&first, &second], [&owner, &thief]).await;
}
