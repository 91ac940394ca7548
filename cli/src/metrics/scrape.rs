//! Looks at a broker, which may be away, and what they give.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use furlong_client::{Client, Picture, Wanted};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

use crate::connect::{ConnectArgs, OBSERVERS};
use crate::print;

use super::list;
use super::view::View;

/// The time for which an answer is shared by all who ask.
const FRESH: Duration = Duration::from_secs(1);
/// The time in which the broker must answer, from the connection on. Prometheus gives up after
/// 10 s.
const ANSWERS_WITHIN: Duration = Duration::from_secs(4);

/// The state of looks at one farm: each is told only what is new.
#[derive(Debug, Default)]
pub struct Looking(Picture);

impl Looking {
    /// Looks, and returns the metrics as text.
    pub async fn at(&mut self, client: &Client) -> Result<String> {
        let wanted = Wanted { ranges: true, failures: true, loads: true, ..Wanted::default() };
        let began = Instant::now();
        while client.look(&mut self.0, wanted).await? {}
        let answer = began.elapsed();
        client.look_for_loads(&mut self.0, wanted).await?;
        let view = View { picture: self.0.clone(), answer };
        Ok(list::text_of(Some(view))?)
    }
}

/// The metrics of a farm whose broker may be away, for any number of readers at once.
#[derive(Clone, Debug)]
pub struct Scraper(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    connect: ConnectArgs,
    connected: Option<(Client, Looking)>,
    last: Option<(Instant, Arc<str>)>,
    /// True if the last look has found the broker away, and that was said.
    is_away: bool,
}

impl Scraper {
    /// Connects when somebody reads for the first time.
    pub fn new(connect: ConnectArgs) -> Self {
        Self(Arc::new(Mutex::new(State { connect, connected: None, last: None, is_away: false })))
    }

    /// Returns metrics that are at most a second old.
    ///
    /// # Errors
    /// The look has panicked.
    pub async fn text(&self) -> Result<Arc<str>> {
        let state = Arc::clone(&self.0).lock_owned().await;
        // A reader who leaves does not end a look: the next one would begin it again.
        Ok(tokio::spawn(State::fresh(state)).await?)
    }
}

impl State {
    async fn fresh(mut state: OwnedMutexGuard<Self>) -> Arc<str> {
        if let Some((at, text)) = &state.last
            && at.elapsed() < FRESH
        {
            return Arc::clone(text);
        }
        let looked = timeout(ANSWERS_WITHIN, state.look()).await;
        let looked = looked.unwrap_or_else(|late| Err(late).context("the broker does not answer"));
        let text: Arc<str> = match looked {
            Ok(text) => {
                state.note_back();
                text.into()
            }
            Err(error) => {
                // The connection too: what it has asked is not to be answered much later.
                state.connected = None;
                state.note_away(&error);
                list::text_of(None).unwrap_or_default().into()
            }
        };
        state.last = Some((Instant::now(), Arc::clone(&text)));
        text
    }

    async fn look(&mut self) -> Result<String> {
        if self.connected.is_none() {
            let client = self.connect.connect(OBSERVERS).await?;
            self.connected = Some((client, Looking::default()));
        }
        let (client, looking) = self.connected.as_mut().context("there is no connection")?;
        looking.at(client).await
    }

    fn note_back(&mut self) {
        if std::mem::take(&mut self.is_away) {
            print::note!("furlong: the broker answers");
        }
    }

    fn note_away(&mut self, error: &anyhow::Error) {
        if !std::mem::replace(&mut self.is_away, true) {
            print::note!("furlong: furlong_up is 0 until the broker answers: {error:#}");
        }
    }
}
