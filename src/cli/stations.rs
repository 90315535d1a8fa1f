//! `millrace show fdb`, and `millrace explain --network`.

use std::path::Path;

use super::output::{Table, grouped, understand};
use super::{ExplainArguments, default_protocol, policies, value};
use crate::admin::client::Client;
use crate::admin::protocol::{ExplainFrame, ExplainPacket, Failure, Request, Stations};

/// One line for each station, and how many there are.
pub(super) fn page(answer: &Stations) -> String {
    let mut table = Table::new(&["NETWORK", "MAC", "AT", "KIND", ">SEEN"]);
    for row in &answer.stations {
        table.row([
            row.network.clone(),
            row.mac.clone(),
            row.place(),
            if row.is_static { "static" } else { "learned" }.to_owned(),
            format!("{} s", row.seen_seconds),
        ]);
    }
    let mut text = if table.is_empty() {
        String::new()
    } else {
        table.render("")
    };
    text.push_str(&format!(
        "{} of {} matching stations; room for {}\n",
        grouped(answer.stations.len() as u64),
        grouped(answer.matching),
        grouped(answer.capacity),
    ));
    text
}

/// Asks where a frame of a network would go, or a packet of a routed one; says so, and answers with the exit status whether it
/// would go anywhere.
pub(super) fn explain(socket: &Path, network: String, arguments: &ExplainArguments) -> Result<(), Failure> {
    let request = request(network, arguments)?;
    let answer = Client::connect(socket)?.request(&request)?;
    let explanation = understand(answer.clone())?;
    policies::conclude(&answer, &explanation, arguments.json, "forwarded")
}

fn request(network: String, arguments: &ExplainArguments) -> Result<Request, Failure> {
    let Ok(from) = arguments.from.parse() else {
        if arguments.proto.is_some() {
            return Err(Failure::wrong("a frame is of any protocol; leave --proto out"));
        }
        return Ok(Request::ExplainFrame(ExplainFrame {
            network,
            from: value::mac(&arguments.from)?,
            to: value::mac(&arguments.to)?,
        }));
    };
    let (to, port) = value::address_and_port(&arguments.to)?;
    Ok(Request::ExplainPacket(ExplainPacket {
        network,
        from,
        to,
        port,
        protocol: arguments.proto.clone().unwrap_or_else(default_protocol),
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stations_are_shown_with_what_is_left_out() {
        let row = |rest: serde_json::Value| {
            let mut row = serde_json::json!({"network": "shop/blue", "mac": "02:00:00:00:00:07", "static": false,
                "seen_seconds": 12});
            row.as_object_mut()
                .unwrap()
                .extend(rest.as_object().unwrap().clone());
            row
        };
        let answer: Stations = serde_json::from_value(
            serde_json::json!({"matching": 2000, "capacity": 65_536, "stations": [
                row(serde_json::json!({"interface": "vm7", "static": true})),
                row(serde_json::json!({"interface": "mr1", "pod": "shop/db-0"})),
                row(serde_json::json!({"remote": "192.0.2.2", "node": "node-b"})),
                row(serde_json::json!({"remote": "192.0.2.9"})),
            ]}),
        )
        .unwrap();
        let text = page(&answer);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "NETWORK    MAC                AT                  KIND     SEEN",
                "shop/blue  02:00:00:00:00:07  vm7                 static   12 s",
                "shop/blue  02:00:00:00:00:07  mr1 (shop/db-0)     learned  12 s",
                "shop/blue  02:00:00:00:00:07  node-b (192.0.2.2)  learned  12 s",
                "shop/blue  02:00:00:00:00:07  192.0.2.9           learned  12 s",
                "4 of 2,000 matching stations; room for 65,536",
            ]
        );
        assert_eq!(
            page(&Stations::default()),
            "0 of 0 matching stations; room for 0\n"
        );
    }
}
