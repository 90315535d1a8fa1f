//! Writing what was given out into the Services' status: one after the other, again where it fails.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{Board, BoardError, Order};
use crate::objects::ServiceKey;

/// How long it is waited after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// What is still to be written.
pub(super) struct Writer<B> {
    board: Arc<B>,
    ingress: BTreeMap<ServiceKey, Vec<IpAddr>>,
}

impl<B: Board> Writer<B> {
    pub(super) fn new(board: Arc<B>) -> Self {
        Self {
            board,
            ingress: BTreeMap::new(),
        }
    }

    /// Takes an order; of several for one Service the last one counts.
    pub(super) fn take(&mut self, order: Order) {
        match order {
            Order::Ingress(ingress) => self.ingress.extend(ingress),
            Order::Forget => self.ingress.clear(),
            Order::Say(_) => {}
        }
    }

    /// Writes one thing; without any it waits for ever. May be dropped at any moment: what is not known to be written is
    /// written again.
    pub(super) async fn work(&mut self) {
        if let Some((service, addresses)) = self.ingress.first_key_value() {
            let written = self.board.set_ingress(service, addresses).await;
            let (service, addresses) = (service.clone(), addresses.clone());
            match written {
                Ok(()) => {
                    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                    info!(
                        "status of Service {service}: load balancer's addresses [{}]",
                        addresses.join(", ")
                    );
                }
                // It was deleted meanwhile.
                Err(BoardError::Gone) => {}
                Err(error) => {
                    warn!("status of Service {service}: {error}");
                    return tokio::time::sleep(PAUSE).await;
                }
            }
            self.ingress.remove(&service);
        } else {
            std::future::pending().await
        }
    }
}
