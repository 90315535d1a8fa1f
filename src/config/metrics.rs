//! `[metrics]`: the counters for monitoring systems.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text::by_text;
use super::value::ValueError;

/// `[metrics]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct Metrics {
    /// `listen`: an address of the node and a TCP port at which `GET /metrics` is answered, over plain HTTP and to everyone
    /// who gets there. Absent: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<ListenAddress>,
}

/// An address and a port to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress(SocketAddr);

impl ListenAddress {
    /// The address and the port.
    #[must_use]
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for ListenAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let address = text
            .parse()
            .ok()
            .filter(|address: &SocketAddr| address.port() != 0);
        address.map(Self).ok_or_else(|| {
            ValueError::because(format!(
                "`{text}` is no IP address with a port, write one such as 127.0.0.1:9631 or [::]:9631"
            ))
        })
    }
}

by_text!(ListenAddress);

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_port_and_nothing_else() {
        for good in ["127.0.0.1:9631", "[::]:9631", "192.0.2.1:1"] {
            assert_eq!(good.parse::<ListenAddress>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "9631",
            ":9631",
            "127.0.0.1",
            "127.0.0.1:0",
            "node-a:9631",
            "::1:x",
        ] {
            let error = bad.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{bad}`")) && error.contains("[::]:9631"),
                "{error}"
            );
        }
    }
}
