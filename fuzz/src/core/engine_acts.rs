//! The acts of engines.

use bytes::Bytes;
use furlong_broker::core::ConnectionId;
use furlong_wire::message::{
    AttemptFinished, AttemptOutput, AttemptPublished, Attempts, Chunk, Direction, Draining,
    ErrorKind, FromEngine, Goodbye, Grant, Inspected, Lent, NeedBlob, Outcome, Raised, RunTimes,
    SlotDown, Stream, TaskState, decode_batch,
};

use super::client_acts::PASS;
use super::peers::{CLIENTS, session_of, zeros};
use super::{Act, Farm};
use crate::input::Input;

impl Farm {
    pub fn engine_acts(&mut self, act: Act, engine: usize, input: &mut Input<'_>) {
        let Some(connection) = self.engines[engine].connection else {
            // Whoever is away can do one thing.
            return self.engine_connects(engine, input);
        };
        match act {
            Act::EngineConnects => self.engine_connects(engine, input),
            Act::EngineLeaves => match input.below(4) {
                0 => self.engine_says_goodbye(engine),
                1 => self
                    .reports(engine, FromEngine::Draining(Draining { reason: "SIGTERM".into() })),
                2 => {
                    // Its process is another one when it comes back.
                    self.engines[engine].in_hand.clear();
                    self.close(connection);
                }
                _ => self.close(connection),
            },
            Act::Starts => {
                let attempts = vec![self.engines[engine].attempt(input)];
                self.reports(engine, FromEngine::Started(Attempts { attempts }));
            }
            Act::Finishes => self.finishes(engine, input),
            Act::GivesBack => {
                let attempt = self.engines[engine].attempt(input);
                self.engines[engine].forget(attempt);
                self.reports(engine, FromEngine::Recalled(Attempts { attempts: vec![attempt] }));
            }
            Act::Writes => {
                let attempt = self.engines[engine].attempt(input);
                let stream = if input.flag() { Stream::Stderr } else { Stream::Stdout };
                let (offset, bytes) = (input.number(), vec![b'x'; input.below(64)]);
                self.reports(
                    engine,
                    FromEngine::Output(AttemptOutput { attempt, stream, offset, bytes }),
                );
            }
            Act::EngineSendsChunk => {
                if let Some((transfer, chunk)) = self.engines[engine].sending.chunk() {
                    let chunk = if input.byte() == 255 { zeros(17) } else { chunk };
                    self.hears_engine(
                        connection,
                        FromEngine::Chunk(Chunk { transfer }),
                        Some(chunk),
                    );
                }
            }
            Act::IsNested => self.make_nested(engine, input),
            _ => self.engine_says_anything(engine, connection, input),
        }
    }

    pub fn engine_says_goodbye(&mut self, engine: usize) {
        self.engines[engine].in_hand.clear();
        self.reports(engine, FromEngine::Goodbye(Goodbye { reason: "stopped".into() }));
        if let Some(connection) = self.engines[engine].connection {
            self.close(connection);
        }
    }

    /// Comes, or comes again while its older connection is still there, and registers with what it
    /// holds.
    fn engine_connects(&mut self, engine: usize, input: &mut Input<'_>) {
        let connection = self.connection();
        let peer = self.engines[engine].peer();
        if self.revoked.get(peer.claims.token_id).is_some()
            || self.core.handle_connected(connection, peer).is_err()
        {
            return;
        }
        let old = self.engines[engine].connection;
        self.engines[engine].begins(connection);
        let mut register = self.engines[engine].register();
        let choice = input.byte();
        if choice & 1 == 1 {
            // Otherwise the broker hears of the old connection's end only afterwards.
            if let Some(old) = old {
                self.core.handle_disconnected(self.now, old);
            }
        }
        // Now and then it forgets to register.
        if choice != 255 {
            if input.byte() == 255 {
                register.slots[0].wanted = Some(super::peers::engine_id(input));
            }
            self.reports(engine, FromEngine::Register(Box::new(register)));
        }
        if let Some(old) = old {
            self.core.handle_disconnected(self.now, old);
        }
    }

    fn finishes(&mut self, engine: usize, input: &mut Input<'_>) {
        let attempt = self.engines[engine].attempt(input);
        let choice = input.byte();
        // Now and then it says so again.
        if choice < 250 {
            self.engines[engine].forget(attempt);
        }
        let mut outcome = match choice & 3 {
            0 | 1 => Outcome::SUCCEEDED,
            2 => Outcome::error(TaskState::Failed, ErrorKind::Remote, "it raised"),
            _ => Outcome {
                state: TaskState::ALL[input.below(TaskState::ALL.len())],
                ..Outcome::error(
                    TaskState::Failed,
                    ErrorKind::ALL[input.below(ErrorKind::ALL.len())],
                    "there is no program `x`",
                )
            },
        };
        let payload = (choice >> 2 & 1 == 0).then(|| self.engines[engine].sending.payload(input));
        let run_us = input.number();
        if let Some(error) = &mut outcome.error {
            let type_name = "T".repeat(run_us as usize % 100);
            error.raised = Some(Raised { type_name, fingerprint: run_us as u32 });
        }
        self.reports(
            engine,
            FromEngine::Finished(AttemptFinished {
                attempt,
                outcome,
                times: RunTimes::ran(run_us),
                payload,
            }),
        );
    }

    /// Sends a message about the code of a running attempt.
    fn make_nested(&mut self, engine: usize, input: &mut Input<'_>) {
        let attempt = self.engines[engine].attempt(input);
        let message = match input.below(8) {
            0 | 1 => FromEngine::Grant(Grant { attempt, key: PASS }),
            2 => {
                FromEngine::Lent(Lent { attempt, sessions: vec![session_of(input.below(CLIENTS))] })
            }
            3 => FromEngine::Back(Attempts { attempts: vec![attempt] }),
            4 => {
                let payload = self.engines[engine].sending.payload(input);
                FromEngine::Published(AttemptPublished { attempt, payload })
            }
            5 => {
                let number = input.below(4) as u32;
                FromEngine::NeedBlob(NeedBlob { session: session_of(input.below(CLIENTS)), number })
            }
            6 => FromEngine::Inspected(Inspected {
                number: input.below(4) as u64,
                attempt: Some(attempt),
                refusal: None,
                contents: b"{}".to_vec(),
            }),
            _ => FromEngine::SlotDown(SlotDown {
                slot: input.below(3) as u32,
                cause: "signal 9".into(),
            }),
        };
        self.reports(engine, message);
    }

    /// Any messages that can be read, with chunks of any length.
    fn engine_says_anything(
        &mut self,
        engine: usize,
        connection: ConnectionId,
        input: &mut Input<'_>,
    ) {
        let len = input.below(256);
        for message in decode_batch::<FromEngine>(input.bytes(len)) {
            let Ok(message) = message else { return self.close(connection) };
            if self.engines[engine].connection != Some(connection) {
                return;
            }
            let chunk = message.chunk_transfer().map(|_| zeros(16 + input.below(256)));
            self.hears_engine(connection, message, chunk);
        }
    }

    /// Says something, if it is connected.
    fn reports(&mut self, engine: usize, message: FromEngine) {
        let Some(connection) = self.engines[engine].connection else { return };
        self.hears_engine(connection, message, None);
    }

    fn hears_engine(
        &mut self,
        connection: ConnectionId,
        message: FromEngine,
        chunk: Option<Bytes>,
    ) {
        let heard = self.core.handle_from_engine(self.now, connection, message, chunk);
        self.settle(connection, heard);
    }
}
