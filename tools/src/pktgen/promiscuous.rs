//! Taking frames for anybody, for a time.

use super::error::PktgenError;
use super::place::Place;

/// An interface that takes frames for anybody until this is dropped; one that did already goes on doing so.
#[derive(Debug)]
pub(crate) struct Promiscuous {
    place: Option<Place>,
}

impl Promiscuous {
    pub(crate) fn enter(place: &Place) -> Result<Self, PktgenError> {
        if place.facts()?.is_promiscuous {
            return Ok(Self { place: None });
        }
        place.set_promiscuous(true)?;
        Ok(Self {
            place: Some(place.clone()),
        })
    }
}

impl Drop for Promiscuous {
    fn drop(&mut self) {
        let Some(place) = &self.place else { return };
        if let Err(error) = place.set_promiscuous(false) {
            // An interface that has gone meanwhile needs nothing.
            if place.facts().is_ok() {
                eprintln!("pktgen: {error}");
            }
        }
    }
}
