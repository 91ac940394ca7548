//! The way in of a client that a running task opens.

use furlong_client::Pass;
use furlong_link::dial::random_bytes;
use furlong_wire::keys::SecretKey;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// A fresh key of a client, whose secret never leaves this process.
#[pyclass(frozen, module = "furlong._furlong")]
pub struct PassKey(SecretKey);

#[pymethods]
impl PassKey {
    /// Makes one of the system's random bytes.
    #[new]
    fn new() -> Self {
        Self(SecretKey::from_bytes(random_bytes()))
    }

    /// The public key: 32 bytes, for the broker to let in.
    #[getter]
    fn public(&self) -> [u8; 32] {
        self.0.public().0
    }
}

impl PassKey {
    /// The pass through the door that an engine has described.
    ///
    /// # Errors
    /// `ValueError` for what no engine writes.
    pub fn pass(&self, door: &str) -> PyResult<Pass> {
        Pass::new(door, self.0.clone()).map_err(|error| PyValueError::new_err(error.to_string()))
    }
}
