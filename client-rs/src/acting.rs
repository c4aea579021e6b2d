//! Acting on somebody's behalf: an access token for a grant, kept fresh.
//!
//! The token is bound to the certificate of the channel that it was asked for on, so it is
//! kept with that channel: on the next one, after a renewal, another is asked for.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderValue;
use tokio::{sync::Mutex, time::Instant};
use tonic::{Status, transport::Channel};
use zta_proto::v1::{self, authentication_service_client::AuthenticationServiceClient};

use crate::renewal;

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
    header: HeaderValue,
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

    /// The `authorization` of a call on this channel. Without a token that holds there is
    /// none, and no call: it must not be made on the client's own behalf.
    pub(crate) async fn authorization(
        &self,
        channel: &Arc<Channel>,
        deadline: Instant,
    ) -> Result<HeaderValue, Status> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        let usable = held
            .as_ref()
            .filter(|held| Arc::ptr_eq(&held.channel, channel) && now < held.end);
        if let Some(held) = usable
            && now < held.refresh
        {
            return Ok(held.header.clone());
        }
        let asked = tokio::time::timeout_at(deadline, self.exchange(channel)).await;
        let asked = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        match (asked, usable.is_some(), held.as_mut()) {
            (Ok(fresh), ..) => {
                let header = fresh.header.clone();
                *held = Some(fresh);
                Ok(header)
            }
            (Err(_), true, Some(held)) => {
                held.refresh = now + RETRY;
                Ok(held.header.clone())
            }
            (Err(status), ..) => Err(status),
        }
    }

    async fn exchange(&self, channel: &Arc<Channel>) -> Result<Held, Status> {
        let act = v1::Act {
            grant: self.grant.clone(),
            ..v1::Act::default()
        };
        let request = v1::ExchangeTokenRequest {
            exchange: Some(v1::exchange_token_request::Exchange::Act(act)),
        };
        let asked = Instant::now();
        let mut service = AuthenticationServiceClient::new(Channel::clone(channel));
        let answer = service.exchange_token(request).await?.into_inner();
        let expire_time = answer.expire_time.unwrap_or_default();
        let end =
            std::time::UNIX_EPOCH + Duration::from_secs(expire_time.seconds.max(0).unsigned_abs());
        let life = end.duration_since(renewal::now()).unwrap_or_default();
        let mut header = HeaderValue::try_from(format!("Bearer {}", answer.token))
            .map_err(|_| Status::internal("the server's token is no header"))?;
        header.set_sensitive(true);
        Ok(Held {
            channel: Arc::clone(channel),
            header,
            refresh: asked + life.mul_f64(FRESH),
            end: asked + life,
        })
    }
}
