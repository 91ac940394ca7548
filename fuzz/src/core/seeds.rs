//! Histories to begin with: each shows acts that go together.

use super::Act::{
    self, Acknowledges, Asks, BrokerRestarts, ClientConnects, ClientLeaves, ClientSaysAnything,
    ClientSendsChunk, Defines, DiskWrites, EndsTasks, EngineConnects, EngineLeaves,
    EngineSaysAnything, EngineSendsChunk, Fetches, Finishes, GivesBack, IsNested, Revokes, Starts,
    Submits, Ticks, TimePasses, Writes,
};
use crate::vectors;

/// An act with its choices.
type Step<'a> = (Act, &'a [u8]);

const CLIENT: Step<'static> = (ClientConnects, &[0, 0]);
const LIMITED: Step<'static> = (ClientConnects, &[1, 1]);
const ADMIN: Step<'static> = (ClientConnects, &[2, 0]);
const ENGINE: Step<'static> = (EngineConnects, &[0, 0, 0]);
const SMALL_ENGINE: Step<'static> = (EngineConnects, &[1, 0, 0]);
/// A shared task, native, without options.
const SUBMIT: Step<'static> = (Submits, &[0, 0, 0, 0, 0, 0, 0, 0]);
/// One for the first engine.
const DIRECT: Step<'static> = (Submits, &[0, 2, 0, 0, 0, 0, 0, 0, 0]);
/// One of 300,000 bytes, which is sent in two chunks.
const LARGE: Step<'static> = (Submits, &[0, 0, 4, 0, 0, 0, 0, 0]);
/// One that is kept, durable and may run again.
const DURABLE: Step<'static> = (Submits, &[0, 0, 0, 0, 0, 1, 0, 0b1101_0000, 0, 0]);
/// One that waits for the first task.
const DEPENDENT: Step<'static> = (Submits, &[0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0]);
const CHUNK: Step<'static> = (ClientSendsChunk, &[0, 0]);
const START: Step<'static> = (Starts, &[0, 0]);
const FINISH: Step<'static> = (Finishes, &[0, 0, 0, 0, 9]);
/// With a result of 300,000 bytes.
const FINISH_LARGE: Step<'static> = (Finishes, &[0, 0, 0, 4, 9]);
/// With an exception.
const RAISE: Step<'static> = (Finishes, &[0, 0, 6, 9]);

/// See the module.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = HISTORIES.iter().map(|steps| history(0, steps)).collect();
    seeds.extend(durable_histories().iter().map(|steps| history(1, steps)));
    let anything = |act, name| vectors::named(name).into_iter().map(move |message| (act, message));
    let of_client = anything(ClientSaysAnything, "FromClient ");
    for (act, message) in of_client.chain(anything(EngineSaysAnything, "FromEngine ")) {
        let said = [&[0, message.len() as u8], &message[..]].concat();
        seeds.push(history(0, &[CLIENT, ENGINE, SUBMIT, START, (act, &said), FINISH]));
    }
    seeds
}

const HISTORIES: &[&[Step<'static>]] = &[
    &[CLIENT, ENGINE, SUBMIT, START, FINISH, (Acknowledges, &[0, 1, 1])],
    &[
        ENGINE,
        CLIENT,
        SUBMIT,
        SUBMIT,
        SUBMIT,
        SUBMIT,
        START,
        RAISE,
        (GivesBack, &[0, 0]),
        FINISH,
        FINISH,
    ],
    &[
        CLIENT,
        SMALL_ENGINE,
        ENGINE,
        DIRECT,
        DIRECT,
        (EngineLeaves, &[0, 3]),
        ENGINE,
        FINISH,
        FINISH,
    ],
    &[
        CLIENT,
        ENGINE,
        LARGE,
        CHUNK,
        CHUNK,
        START,
        FINISH_LARGE,
        (EngineSendsChunk, &[0, 0]),
        (Ticks, &[]),
    ],
    &[CLIENT, ENGINE, LARGE, CHUNK, (ClientLeaves, &[0, 1]), CLIENT, (TimePasses, &[5])],
    &[CLIENT, ENGINE, SUBMIT, DEPENDENT, DEPENDENT, FINISH, FINISH, (TimePasses, &[6])],
    &[CLIENT, ENGINE, SUBMIT, SUBMIT, (EndsTasks, &[0, 1, 1, 2, 0, 0]), FINISH, FINISH],
    &[CLIENT, ENGINE, SUBMIT, (EndsTasks, &[0, 0, 1, 200, 0, 3]), (EndsTasks, &[0, 0, 1, 9, 0, 4])],
    &[
        CLIENT,
        ENGINE,
        SUBMIT,
        START,
        (Writes, &[0, 0, 0, 0, 9]),
        (Fetches, &[0, 0, 1, 1, 1]),
        FINISH,
    ],
    &[CLIENT, ENGINE, (Defines, &[0, 1, 1, 0]), (Submits, &[0, 0, 0, 0, 1, 1, 0, 0, 0]), FINISH],
    &[
        CLIENT,
        ENGINE,
        SUBMIT,
        START,
        (IsNested, &[0, 0, 0]),
        (ClientConnects, &[3, 0]),
        (Submits, &[3, 0, 0]),
    ],
    &[CLIENT, ENGINE, SUBMIT, START, (IsNested, &[0, 0, 2, 3]), (IsNested, &[0, 0, 3]), FINISH],
    &[
        CLIENT,
        ENGINE,
        SUBMIT,
        (IsNested, &[0, 0, 4, 3]),
        (EngineSendsChunk, &[0, 0]),
        (IsNested, &[0, 0, 6, 0]),
    ],
    &[
        CLIENT,
        ENGINE,
        ADMIN,
        SUBMIT,
        (Asks, &[2, 0, 1]),
        (Asks, &[2, 0, 5]),
        (Asks, &[2, 0, 7, 1, 1, 0]),
    ],
    &[
        CLIENT,
        ENGINE,
        ADMIN,
        SUBMIT,
        START,
        (Asks, &[2, 0, 8, 0]),
        (Revokes, &[4]),
        (TimePasses, &[4]),
    ],
    &[
        LIMITED,
        ENGINE,
        (Submits, &[1, 0, 4, 0, 0, 1, 0x7e, 8, 0, 1, 1, 1, 1, 1]),
        (ClientLeaves, &[1, 0]),
    ],
    &[
        CLIENT,
        ENGINE,
        SUBMIT,
        (EngineLeaves, &[0, 2]),
        (TimePasses, &[3]),
        ENGINE,
        (TimePasses, &[4]),
        FINISH,
    ],
    &[
        CLIENT,
        ENGINE,
        SUBMIT,
        START,
        (BrokerRestarts, &[]),
        ENGINE,
        CLIENT,
        FINISH,
        (EngineLeaves, &[0, 1]),
    ],
];

fn durable_histories() -> Vec<Vec<Step<'static>>> {
    let (written, lost) = ((DiskWrites, &[0][..]), (DiskWrites, &[1][..]));
    vec![
        vec![
            CLIENT,
            ENGINE,
            DURABLE,
            written,
            START,
            FINISH,
            written,
            (Acknowledges, &[0, 1, 1]),
            written,
        ],
        vec![CLIENT, ENGINE, DURABLE, lost, DURABLE, written, (TimePasses, &[6])],
        vec![
            CLIENT,
            ENGINE,
            DURABLE,
            written,
            START,
            (BrokerRestarts, &[]),
            CLIENT,
            ENGINE,
            written,
            FINISH,
            written,
        ],
        vec![
            CLIENT,
            DURABLE,
            DURABLE,
            written,
            (ClientLeaves, &[0, 0]),
            (BrokerRestarts, &[]),
            ENGINE,
            FINISH,
        ],
    ]
}

fn history(first: u8, steps: &[Step<'_>]) -> Vec<u8> {
    let mut bytes = vec![first];
    for (act, choices) in steps {
        let byte = Act::ALL.iter().position(|other| other == act).expect("every act is listed");
        bytes.push(byte as u8);
        bytes.extend_from_slice(choices);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Farm;
    use crate::input::Input;

    /// Plays a history, and tells how many ends the first client has heard of.
    fn ends(first: u8, steps: &[Step<'_>]) -> usize {
        let bytes = history(first, steps);
        let mut input = Input::new(&bytes);
        let mut farm = Farm::new(input.flag());
        while !input.is_empty() {
            farm.acts(&mut input);
        }
        farm.clients[0].ends.len()
    }

    #[test]
    fn histories_are_what_they_look_like() {
        assert_eq!(ends(0, &[CLIENT, ENGINE, SUBMIT, START, FINISH, DIRECT, FINISH]), 2);
        assert_eq!(ends(0, &[CLIENT, ENGINE, LARGE, FINISH]), 0, "its chunks have not come");
        assert_eq!(
            ends(0, &[CLIENT, ENGINE, LARGE, CHUNK, CHUNK, FINISH_LARGE]),
            0,
            "nor have its result's"
        );
        let (sent, written) = ((EngineSendsChunk, &[0, 0][..]), (DiskWrites, &[0][..]));
        assert_eq!(ends(0, &[CLIENT, ENGINE, LARGE, CHUNK, CHUNK, FINISH_LARGE, sent, sent]), 1);
        assert_eq!(
            ends(0, &[CLIENT, ENGINE, SUBMIT, DEPENDENT, RAISE]),
            2,
            "the other one depends on it"
        );
        assert_eq!(ends(1, &[CLIENT, ENGINE, DURABLE, FINISH]), 0, "it is not on disk");
        assert_eq!(ends(1, &[CLIENT, ENGINE, DURABLE, written, FINISH, written]), 1);
        assert_eq!(
            ends(
                1,
                &[CLIENT, DURABLE, written, (BrokerRestarts, &[]), CLIENT, ENGINE, FINISH, written]
            ),
            1
        );
    }
}
