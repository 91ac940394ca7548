//! The broker's own keys, in two files, because only one of the two has to be where the broker is.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::text::{self, JsonError, SecretText};
use crate::keys::{AtRestKey, IssuerKey, IssuerPublicKey, SecretKey};

/// The key file that the broker loads at its start: `broker.key.json`. It verifies tokens, and can
/// issue none.
#[derive(Debug)]
pub struct BrokerKey {
    /// The key that the broker proves to its peers.
    pub server_secret: SecretKey,
    /// The key that signs this cluster's tokens.
    pub issuer_key: IssuerPublicKey,
    /// The key for what the broker writes to disk.
    pub at_rest_key: AtRestKey,
}

impl BrokerKey {
    /// Reads the text of a `broker.key.json`. The caller erases `text` when it is done with it.
    pub fn from_json(text: &str) -> Result<Self, JsonError> {
        let file: BrokerKeyText = text::parse(BROKER_KIND, text)?;
        Ok(Self {
            server_secret: SecretKey::from_bytes(*text::secret(
                "server_secret",
                &file.server_secret,
            )?),
            issuer_key: text::issuer_key(&file.issuer_key)?,
            at_rest_key: AtRestKey::from_bytes(*text::secret("at_rest_key", &file.at_rest_key)?),
        })
    }

    /// The text of the file, which is erased from memory when it is dropped.
    pub fn to_json(&self) -> Zeroizing<String> {
        text::print(&BrokerKeyText {
            kind: BROKER_KIND.to_owned(),
            version: text::VERSION,
            server_secret: SecretText::of(self.server_secret.expose()),
            issuer_key: self.issuer_key.to_string(),
            at_rest_key: SecretText::of(self.at_rest_key.expose()),
        })
    }
}

/// The file needed to issue capabilities: `issuer.key.json`. It may be kept elsewhere than on the
/// broker's machine.
#[derive(Debug)]
pub struct IssuerKeyFile {
    /// The key that signs this cluster's tokens.
    pub issuer: IssuerKey,
}

impl IssuerKeyFile {
    /// Reads the text of an `issuer.key.json`. The caller erases `text` when it is done with it.
    pub fn from_json(text: &str) -> Result<Self, JsonError> {
        let file: IssuerKeyText = text::parse(ISSUER_KIND, text)?;
        let seed = text::secret("issuer_seed", &file.issuer_seed)?;
        Ok(Self { issuer: IssuerKey::from_seed(*seed) })
    }

    /// The text of the file, which is erased from memory when it is dropped.
    pub fn to_json(&self) -> Zeroizing<String> {
        text::print(&IssuerKeyText {
            kind: ISSUER_KIND.to_owned(),
            version: text::VERSION,
            issuer_seed: SecretText::of(self.issuer.expose_seed()),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrokerKeyText {
    kind: String,
    version: u32,
    server_secret: SecretText,
    issuer_key: String,
    at_rest_key: SecretText,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerKeyText {
    kind: String,
    version: u32,
    issuer_seed: SecretText,
}

const BROKER_KIND: &str = "furlong broker key";
const ISSUER_KIND: &str = "furlong issuer key";

#[cfg(test)]
mod tests {
    use super::*;

    fn broker_key() -> BrokerKey {
        BrokerKey {
            server_secret: SecretKey::from_bytes([1; 32]),
            issuer_key: IssuerKey::from_seed([2; 32]).public(),
            at_rest_key: AtRestKey::from_bytes([3; 32]),
        }
    }

    #[test]
    fn both_files_read_back_as_written() {
        let text = broker_key().to_json();
        let read = BrokerKey::from_json(&text).unwrap();
        assert_eq!(read.server_secret.expose(), &[1; 32]);
        assert_eq!(read.issuer_key, broker_key().issuer_key);
        assert_eq!(read.at_rest_key.expose(), &[3; 32]);
        assert_eq!(read.to_json(), text);

        let text = IssuerKeyFile { issuer: IssuerKey::from_seed([2; 32]) }.to_json();
        let read = IssuerKeyFile::from_json(&text).unwrap();
        assert_eq!(read.issuer.public(), broker_key().issuer_key);
        assert_eq!(read.to_json(), text);
    }

    #[test]
    fn one_file_is_not_taken_for_the_other() {
        let error = IssuerKeyFile::from_json(&broker_key().to_json()).unwrap_err().to_string();
        assert_eq!(
            error,
            "this is not the file of a furlong issuer key: its field \"kind\" says something else"
        );
    }

    #[test]
    fn a_bad_value_is_named_and_not_quoted() {
        let text = broker_key().to_json();
        let cases = [
            (
                text.replace("0101", "01XY"),
                "field \"server_secret\": it is not lowercase hexadecimal",
            ),
            (
                text.replace("0303030303", "03"),
                "field \"at_rest_key\": it has not 64 hexadecimal digits",
            ),
            (
                text.replace(&broker_key().issuer_key.to_string(), &"0".repeat(64)),
                "field \"issuer_key\": it is a weak Ed25519 key (of small order)",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(BrokerKey::from_json(&text).unwrap_err().to_string(), expected);
        }
        assert_eq!(
            format!("{:?}", broker_key()).replace(&broker_key().issuer_key.to_string(), "KEY"),
            "BrokerKey { server_secret: SecretKey(secret), issuer_key: IssuerPublicKey(KEY), at_rest_key: AtRestKey(secret) }"
        );
    }
}
