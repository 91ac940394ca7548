//! A pass: the way in of a client that a running task opens. It has no token: the broker lets its
//! key in, because the task's engine has named it.

use serde::{Deserialize, Serialize};

use super::{CapabilityError, Door, ENDPOINTS_MAX, Endpoint, text};
use crate::ids::{ClusterId, PassKey};
use crate::keys::{PublicKey, SecretKey};

/// All that a task's client needs to enter the cluster of its engine, for as long as the task runs.
#[derive(Debug)]
pub struct Pass {
    cluster: ClusterId,
    endpoints: Vec<Endpoint>,
    server_key: PublicKey,
    secret: SecretKey,
}

impl Pass {
    /// Puts a pass together from what an engine says of its broker ([`Door::to_json`]) and a fresh
    /// secret.
    ///
    /// # Errors
    /// Text that no engine of this version writes; no endpoint, or more than [`ENDPOINTS_MAX`]; a
    /// weak server key.
    pub fn new(door: &str, secret: SecretKey) -> Result<Self, CapabilityError> {
        let file: DoorText = text::parse(KIND, door)?;
        let endpoints: Result<Vec<Endpoint>, _> =
            file.endpoints.iter().map(|endpoint| endpoint.parse()).collect();
        let endpoints = endpoints.map_err(CapabilityError::Endpoint)?;
        let server_key = PublicKey(text::hex_array("server_key", &file.server_key)?);
        match endpoints.len() {
            0 => return Err(CapabilityError::NoEndpoints),
            1..=ENDPOINTS_MAX => {}
            _ => return Err(CapabilityError::TooManyEndpoints),
        }
        if !server_key.is_sound() {
            return Err(CapabilityError::WeakServerKey);
        }
        Ok(Self {
            cluster: ClusterId(text::hex_array("cluster_id", &file.cluster_id)?),
            endpoints,
            server_key,
            secret,
        })
    }

    /// The key that the broker is to let in.
    pub fn key(&self) -> PassKey {
        PassKey(self.secret.public().0)
    }

    /// Returns the broker's address, and the secret with which to enter.
    pub fn door(&self) -> Door<'_> {
        let Self { cluster, endpoints, server_key, secret } = self;
        Door { cluster: *cluster, endpoints, server_key: *server_key, secret }
    }
}

impl Door<'_> {
    /// Returns as JSON what a task may know of it: everything but the secret.
    pub fn to_json(&self) -> String {
        let text = DoorText {
            kind: KIND.to_owned(),
            version: text::VERSION,
            cluster_id: self.cluster.to_string(),
            endpoints: self.endpoints.iter().map(Endpoint::to_string).collect(),
            server_key: self.server_key.to_string(),
        };
        serde_json::to_string(&text).expect("strings and numbers in a struct always serialise")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DoorText {
    kind: String,
    version: u32,
    cluster_id: String,
    endpoints: Vec<String>,
    server_key: String,
}

const KIND: &str = "furlong door";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_has_the_door_of_its_engine_and_a_key_of_its_own() {
        let (broker, engine) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let endpoints: Vec<Endpoint> = vec!["tcp://10.0.0.1:7".parse().unwrap()];
        let cluster = ClusterId([3; 32]);
        let door =
            Door { cluster, endpoints: &endpoints, server_key: broker.public(), secret: &engine };
        let text = door.to_json();
        let pass = Pass::new(&text, SecretKey::from_bytes([4; 32])).unwrap();
        let Door { cluster: of, endpoints: at, server_key, secret } = pass.door();
        assert_eq!((of, at, server_key), (cluster, &endpoints[..], broker.public()));
        assert_eq!(pass.key().0, secret.public().0);
        for wrong in [
            text.replace("tcp://10.0.0.1:7", "nowhere"),
            text.replace("furlong door", "door"),
            "{}".into(),
        ] {
            assert!(Pass::new(&wrong, SecretKey::from_bytes([4; 32])).is_err(), "{wrong}");
        }
    }
}
