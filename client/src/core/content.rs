//! A call on its way to the wire: its content is buffers first, then packed, once. What it calls
//! has a name, for people.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use furlong_wire::call::{Call as HeaderCall, CallHeader, decode_header};
use furlong_wire::limits::{KINDS_NAMED_MAX, NAME_BYTES_MAX};
use furlong_wire::message::{KindName, Runtime, Targets, TaskOptions};
use furlong_wire::payload::{Packed, PayloadSealer};

use super::definitions::Definition;
use crate::error::ClientError;

/// A call, ready to be submitted. After a refusal it can be submitted again.
#[derive(Debug)]
pub struct Call {
    pub targets: Targets,
    pub runtime: Runtime,
    pub class: u32,
    pub definition: Option<Arc<Definition>>,
    pub options: Option<Box<TaskOptions>>,
    pub content: Content,
}

/// Call header and arguments.
#[derive(Debug)]
pub enum Content {
    /// Not yet packed.
    Buffers(Bytes, Vec<Bytes>),
    /// For the wire.
    Packed(Packed),
}

impl Content {
    /// Prepares the buffers for the wire, once. Returns the bytes that count against the credit.
    pub(super) fn pack(&mut self, sealer: &mut PayloadSealer) -> Result<u64, ClientError> {
        // Once, though the submit may be refused and tried again: what is packed has its number
        // under the session's key already.
        if let Self::Buffers(header, data) = self {
            *self = Self::Packed(
                sealer.pack_with_header(std::mem::take(header), std::mem::take(data))?,
            );
        }
        Ok(match self {
            Self::Packed(packed) => announced_bytes(packed),
            Self::Buffers(..) => unreachable!("it was packed a moment ago"),
        })
    }

    /// Gives the content away, for the wire.
    pub(super) fn take(&mut self, sealer: &mut PayloadSealer) -> Result<Packed, ClientError> {
        match std::mem::replace(self, Self::Buffers(Bytes::new(), Vec::new())) {
            Self::Packed(packed) => Ok(packed),
            Self::Buffers(header, data) => Ok(sealer.pack_with_header(header, data)?),
        }
    }
}

/// Bytes that count against the credit: those of chunks.
pub(super) fn announced_bytes(packed: &Packed) -> u64 {
    match packed {
        Packed::Inline(_) => 0,
        Packed::Chunked(sealed) => sealed.bytes(),
    }
}

impl Call {
    /// Returns true if its results stay at the broker.
    pub(super) fn stays(&self) -> bool {
        self.runtime == Runtime::Value || self.options.as_ref().is_some_and(|it| it.stay)
    }
}

/// The names of a session's kinds of tasks, as they were said.
#[derive(Debug, Default)]
pub(super) struct Names {
    said: BTreeMap<(Runtime, u32), String>,
    /// The kind of the last call: mostly the next one is of it, too.
    last: Option<(Runtime, u32)>,
}

impl Names {
    /// The name that is to be said before a call: that of its kind, if this is its first one.
    pub fn name(&mut self, call: &Call) -> Option<KindName> {
        let kind = (call.runtime, call.class);
        if self.last == Some(kind) {
            return None;
        }
        self.last = Some(kind);
        // What is packed was refused before, and named then.
        let Content::Buffers(header, _) = &call.content else { return None };
        if self.said.len() >= KINDS_NAMED_MAX || self.said.contains_key(&kind) {
            return None;
        }
        let mut name = kind_name(call.runtime, header)?;
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        self.said.insert(kind, name.clone());
        Some(KindName { class: call.class, runtime: call.runtime, name })
    }

    /// All of them, for another connection.
    pub fn all(&self) -> impl Iterator<Item = KindName> {
        let name = |(kind, name): (&(Runtime, u32), &String)| {
            let (runtime, class) = *kind;
            KindName { class, runtime, name: name.clone() }
        };
        self.said.iter().map(name)
    }
}

/// The name by which a user knows what a call calls.
fn kind_name(runtime: Runtime, header: &Bytes) -> Option<String> {
    if runtime == Runtime::Value {
        return Some("value".to_owned());
    }
    Some(match decode_header::<CallHeader>(header).ok()?.call {
        HeaderCall::Named { function } => function.replace(':', "."),
        HeaderCall::Source { file, function, .. } => {
            let module = Path::new(&file).file_stem().unwrap_or_default();
            format!("{}.{function}", module.to_string_lossy())
        }
        HeaderCall::Pickled(pickled) => pickled.name,
        HeaderCall::Execute { .. } | HeaderCall::Run { .. } => "execute".to_owned(),
        HeaderCall::Push | HeaderCall::Pull { .. } | HeaderCall::Keys | HeaderCall::Clear => {
            "namespace".to_owned()
        }
        HeaderCall::Command(command) => {
            let program = Path::new(command.argv.first()?);
            program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
        }
    })
}

/// The number of tasks that a submit makes.
pub(super) fn task_count(targets: &Targets) -> u64 {
    match targets {
        Targets::Shared => 1,
        Targets::Engines(engines) => engines.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use furlong_wire::call::CommandSpec;
    use furlong_wire::message::Targets;

    use super::*;
    use crate::{CallSpec, PickledFunction, SourceFunction};

    #[test]
    fn a_kind_has_the_name_by_which_a_user_knows_it() {
        let pickled = PickledFunction::new("<lambda>", "p", (3, 12));
        let source = SourceFunction::new("scripts/load.py", "def parquet(): pass", "parquet");
        let argv = vec!["/usr/bin/render.sh".into(), "x".into()];
        let cases = [
            (CallSpec::native("noop"), "noop"),
            (CallSpec::python("math:sqrt"), "math.sqrt"),
            (CallSpec::source(Arc::new(source)), "load.parquet"),
            (CallSpec::pickled(Arc::new(pickled)), "<lambda>"),
            (CallSpec::code("1 + 1"), "execute"),
            (CallSpec::script("s.py", "x = 1"), "execute"),
            (CallSpec::command(["true"]), "true"),
            (CallSpec::command_with(CommandSpec { argv, ..CommandSpec::default() }), "render.sh"),
            (CallSpec::value(crate::Arguments::Raw(vec![])), "value"),
        ];
        for (spec, expected) in cases {
            let call = spec.prepare(Targets::Shared).unwrap();
            let name = Names::default().name(&call).map(|kind| kind.name);
            assert_eq!(name.as_deref(), Some(expected));
        }
    }
}
