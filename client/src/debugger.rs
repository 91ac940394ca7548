//! Debuggers after the end: `pdb` in the frames of a Python task that has failed, on its engine.

use std::collections::BTreeMap;

use furlong_wire::ids::EngineId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::call::{Arguments, CallSpec};
use crate::client::Client;
use crate::error::ClientError;
use crate::multiengine::EngineTargets;
use crate::outcome::TaskFailure;

/// The debugger of one failure: each command is a task for the engine that has its frames.
///
/// They are there until that engine's interpreter begins other work, or nobody has looked at them
/// for ten minutes.
#[derive(Clone, Debug)]
pub struct Debugger {
    client: Client,
    engine: EngineId,
    token: String,
}

/// The answer to a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Debugged {
    /// The text that the debugger has written.
    pub text: String,
    /// False if the command has left the debugger: its frames are gone.
    pub is_open: bool,
}

/// The reason why there are no frames to debug in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DebugError {
    /// The engine has kept none of this failure.
    #[error(
        "no frames are kept of this failure: an engine keeps those of an exception that Python code has raised, in a \
         chunk of a map those of its first item that fails, and none where memory has run out"
    )]
    NeverKept,
    /// They are no longer there.
    #[error(
        "the frames of this failure are gone: {why}. Run it again with engine {engine} to itself and without retries \
         (`--retries 0`), and open the debugger before anything else runs there"
    )]
    Gone {
        /// The engine that had them.
        engine: EngineId,
        /// The reason.
        why: String,
    },
    /// The command could not be sent, or has no answer.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Client {
    /// The debugger of a failed task.
    ///
    /// ```no_run
    /// # use furlong_client::{Client, DebugError, TaskFailure};
    /// # async fn show(client: &Client, failure: &TaskFailure) -> Result<(), DebugError> {
    /// let debugger = client.debugger(failure)?;
    /// println!("{}", debugger.place().await?.text);
    /// println!("{}", debugger.run("p total").await?.text);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`DebugError::NeverKept`] if its engine has kept no frames. Whether they are still there is
    /// known at the first command.
    pub fn debugger(&self, failure: &TaskFailure) -> Result<Debugger, DebugError> {
        let token = failure.remote_details().first().and_then(|document| token_in(document));
        let (engine, token) = failure.report.engine.zip(token).ok_or(DebugError::NeverKept)?;
        Ok(Debugger { client: self.clone(), engine, token })
    }
}

impl Debugger {
    /// The exception, and the line that the debugger is at.
    ///
    /// # Errors
    /// [`DebugError::Gone`] if the frames are.
    pub async fn place(&self) -> Result<Debugged, DebugError> {
        self.ask(None).await
    }

    /// Runs a command of `pdb`.
    ///
    /// # Errors
    /// [`DebugError::Gone`] if the frames are.
    pub async fn run(&self, command: &str) -> Result<Debugged, DebugError> {
        self.ask(Some(command)).await
    }

    async fn ask(&self, command: Option<&str>) -> Result<Debugged, DebugError> {
        let gone = |why: String| DebugError::Gone { engine: self.engine, why };
        let here = self.client.engines().await?;
        if !here.contains(&self.engine) {
            return Err(gone(format!("engine {} has left", self.engine)));
        }
        let asked = Asked { token: &self.token, command, sources: BTreeMap::new() };
        let asked = serde_json::to_vec(&asked).map_err(|_| ClientError::WrongAnswer)?;
        let call = CallSpec::python(FUNCTION).arguments(Arguments::Raw(vec![asked.into()]));
        let targets = EngineTargets::Ids(vec![self.engine]);
        let ended = self.client.multiengine(targets).call(&call).await?.wait_each().await;
        let ended = ended.into_iter().next().ok_or(ClientError::WrongAnswer)?;
        let result = ended.map_err(|failure| gone(failure.to_string()))?;
        let answer = result.data.first().and_then(|data| serde_json::from_slice(data).ok());
        let Answer { state, text } = answer.ok_or(ClientError::WrongAnswer)?;
        match state {
            State::Open => Ok(Debugged { text, is_open: true }),
            State::Released => Ok(Debugged { text, is_open: false }),
            State::Gone => Err(gone(text)),
        }
    }
}

/// The token in the document about an exception, which PROTOCOL.md explains.
fn token_in(document: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(document).ok()?;
    Some(document.get(0)?.get("frames")?.as_str()?.to_owned())
}

/// A command, for `furlong_worker/frames.py`.
#[derive(Serialize)]
struct Asked<'a> {
    token: &'a str,
    command: Option<&'a str>,
    sources: BTreeMap<String, String>,
}

/// Its answer.
#[derive(Deserialize)]
struct Answer {
    state: State,
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Open,
    Released,
    Gone,
}

/// The interpreter's name for the function that runs commands.
const FUNCTION: &str = "furlong_worker:debug";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_from_the_first_exception_alone() {
        assert_eq!(token_in(br#"[{"frames": "a1"}, {"frames": "b2"}]"#).as_deref(), Some("a1"));
        for document in [&b"[]"[..], br#"[{}, {"frames": "b2"}]"#, br#"[{"frames": 1}]"#, b"{"] {
            assert_eq!(token_in(document), None);
        }
    }
}
