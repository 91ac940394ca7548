//! Errors of the client as exceptions of `furlong.errors`.

use furlong_client::{ClientError, ConnectError};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// An exception of the class with that name in `furlong.errors`.
pub fn raise(py: Python<'_>, class: &str, text: String) -> PyErr {
    let found = py.import("furlong.errors").and_then(|errors| errors.getattr(class));
    match found.and_then(|class| class.cast_into::<PyType>().map_err(PyErr::from)) {
        Ok(class) => PyErr::from_type(class, (text,)),
        Err(error) => error,
    }
}

/// The error when there is no connection.
pub fn connect_error(py: Python<'_>, error: &ConnectError) -> PyErr {
    let class = match error {
        ConnectError::NoCapability(_) => "CapabilityNotFound",
        ConnectError::CapabilityFile(_) if error.is_transient() => "CapabilityNotFound",
        ConnectError::Dial(error) if error.is_transient() => "ConnectionFailed",
        _ => "ConnectionRefused",
    };
    raise(py, class, error.to_string())
}

/// Converts the error of a failed request to a Python exception.
pub fn client_error(py: Python<'_>, error: &ClientError) -> PyErr {
    let class = match error {
        ClientError::Disconnected(_) | ClientError::Interrupted => "ConnectionLost",
        ClientError::NoAnswer { .. } => "ConnectionFailed",
        ClientError::Busy => "Busy",
        ClientError::PayloadTooLarge { .. } | ClientError::Payload(_) => "PayloadTooLarge",
        ClientError::NoEngines => "NoEnginesRegistered",
        ClientError::Options(_) => "InvalidOption",
        ClientError::Refused(_) => "RequestRefused",
        ClientError::InputTaken(_) => "InputTaken",
        _ => "FurlongError",
    };
    raise(py, class, error.to_string())
}
