//! Servers' behaviour, and the client's answer to it.

mod download;
mod exchange;

use vmette_work::Cancel;

use crate::{Client, NetworkOptions, Policy};

fn impatient_client() -> Client {
    Client::impatient(&Policy::default(), &Cancel::new())
}

fn with_network(network: NetworkOptions) -> Policy {
    Policy { offline: false, network }
}
