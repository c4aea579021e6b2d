//! Acting on somebody's behalf: an access token for a grant, kept fresh.
//!
//! The token is bound to the certificate of the channel that it was asked for on, so it is
//! kept with that channel: on the next one, after a renewal, another is asked for.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};
use tonic::{Status, transport::Channel};
use zta_proto::v1::{self, authentication_service_client::AuthenticationServiceClient};

use crate::{connection::Connection, renewal};

/// A token is asked for anew when half of its life is over.
const FRESH: f64 = 0.5;
/// Another try, where one failed and the token still holds.
const RETRY: Duration = Duration::from_secs(1);

/// A grant that names this client, and the token that it was turned into last.
pub(crate) struct Acting {
    grant: String,
    held: Mutex<Option<Held>>,
}

struct Held {
    channel: Arc<Channel>,
    token: Arc<str>,
    refresh: Instant,
    end: Instant,
}

/// Without the grant and the token.
impl fmt::Debug for Acting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acting").finish_non_exhaustive()
    }
}

impl Acting {
    pub(crate) fn new(grant: &str) -> Self {
        Self {
            grant: grant.to_owned(),
            held: Mutex::new(None),
        }
    }

    /// The token of a call on this channel, asked for over `via` where each call is proved.
    /// Without a token that holds there is none, and no call: it must not be made on the
    /// client's own behalf.
    pub(crate) async fn token(
        &self,
        channel: &Arc<Channel>,
        via: Option<Connection>,
        deadline: Instant,
    ) -> Result<Arc<str>, Status> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        let usable = held
            .as_ref()
            .filter(|held| Arc::ptr_eq(&held.channel, channel) && now < held.end);
        if let Some(held) = usable
            && now < held.refresh
        {
            return Ok(Arc::clone(&held.token));
        }
        let asked = tokio::time::timeout_at(deadline, self.exchange(channel, via)).await;
        let asked = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        match (asked, usable.is_some(), held.as_mut()) {
            (Ok(fresh), ..) => {
                let token = Arc::clone(&fresh.token);
                *held = Some(fresh);
                Ok(token)
            }
            (Err(_), true, Some(held)) => {
                held.refresh = now + RETRY;
                Ok(Arc::clone(&held.token))
            }
            (Err(status), ..) => Err(status),
        }
    }

    async fn exchange(
        &self,
        channel: &Arc<Channel>,
        via: Option<Connection>,
    ) -> Result<Held, Status> {
        let act = v1::Act {
            grant: self.grant.clone(),
            ..v1::Act::default()
        };
        let request = v1::ExchangeTokenRequest {
            exchange: Some(v1::exchange_token_request::Exchange::Act(act)),
        };
        let asked = Instant::now();
        let answer = match via {
            Some(via) => {
                AuthenticationServiceClient::new(via)
                    .exchange_token(request)
                    .await?
            }
            None => {
                let mut service = AuthenticationServiceClient::new(Channel::clone(channel));
                service.exchange_token(request).await?
            }
        };
        let answer = answer.into_inner();
        let expire_time = answer.expire_time.unwrap_or_default();
        let end =
            std::time::UNIX_EPOCH + Duration::from_secs(expire_time.seconds.max(0).unsigned_abs());
        let life = end.duration_since(renewal::now()).unwrap_or_default();
        Ok(Held {
            channel: Arc::clone(channel),
            token: answer.token.into(),
            refresh: asked + life.mul_f64(FRESH),
            end: asked + life,
        })
    }
}
