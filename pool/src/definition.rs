//! Pools that are defined by name in a file, `pools.toml`: a section a pool, whose keys are the
//! flags of `furlong pool add`. The section `[limits]` of a site's file bounds all of them.

use std::collections::BTreeMap;

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keeper::ENGINES_MAX;
use crate::spec::PoolName;

/// The definitions of one file.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Definitions {
    /// The pools, by name.
    pub pools: BTreeMap<PoolName, Definition>,
    /// The bounds on all pools, if it has any.
    pub limits: Option<SiteLimits>,
}

/// A pool of such a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    /// The system that starts its engines.
    pub on: Setting,
    /// Its other settings, in the order of the flags.
    pub settings: Vec<Setting>,
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The key, which is also the name of a flag.
    pub key: &'static str,
    /// The values, each as the flag takes it.
    pub values: Vec<String>,
    /// The line in which it is, counted from 1.
    pub line: usize,
}

/// The bounds that an administrator sets. Each holds for one pool.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SiteLimits {
    /// The most engines.
    pub engines_max: Option<u32>,
    /// The most jobs that wait or run.
    pub jobs_max: Option<u32>,
    /// The most jobs that wait.
    pub pending_max: Option<u32>,
    /// The longest time of a job, as the flag takes it.
    pub walltime_max: Option<Setting>,
}

/// A file that defines no pools.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("line {line}: {problem}")]
pub struct DefinitionError {
    /// The line, counted from 1.
    pub line: usize,
    /// The mistake, and its remedy.
    pub problem: String,
}

/// The section of the limits.
const LIMITS: &str = "limits";
/// The key of the arguments for the system's command, which stand behind `--` on a command line.
pub const ARGS: &str = "args";

/// The kinds of values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// A whole number or a text.
    Either,
    /// A list of texts, or one alone.
    List,
}

/// The keys of a pool beside `on`.
const KEYS: [(&str, Kind); 20] = [
    ("n", Kind::Either),
    ("per-job", Kind::Number),
    ("cpus", Kind::Number),
    ("memory", Kind::Text),
    ("walltime", Kind::Either),
    ("setup", Kind::List),
    ("template", Kind::Text),
    ("via", Kind::Text),
    ("hosts", Kind::Text),
    ("image", Kind::Text),
    ("program", Kind::Text),
    ("python", Kind::Text),
    ("max-jobs", Kind::Number),
    ("max-pending", Kind::Number),
    ("label", Kind::List),
    ("env", Kind::List),
    ("cwd", Kind::Text),
    ("idle-timeout", Kind::Either),
    ("broker-timeout", Kind::Either),
    (ARGS, Kind::List),
];

/// The keys of the limits.
const LIMIT_KEYS: [(&str, Kind); 4] = [
    ("max-engines", Kind::Number),
    ("max-jobs", Kind::Number),
    ("max-pending", Kind::Number),
    ("max-walltime", Kind::Either),
];

/// Reads a file.
///
/// # Errors
/// The first line that is wrong, and how to mend it.
pub fn read(text: &str) -> Result<Definitions, DefinitionError> {
    let reader = Reader { text };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        reader.wrong(at, format!("this is no TOML: {}", in_a_line(error.message())))
    })?;
    let mut definitions = Definitions::default();
    for (name, value) in table.get_ref() {
        let DeValue::Table(section) = value.get_ref() else {
            return Err(reader.wrong(
                name.span().start,
                format!(
                    "`{}` stands outside of a pool; write `[NAME]` on a line before it",
                    name.get_ref()
                ),
            ));
        };
        if name.get_ref() == LIMITS {
            definitions.limits = Some(reader.limits(section)?);
            continue;
        }
        let pool = name.get_ref().parse::<PoolName>();
        let pool = pool.map_err(|problem| reader.wrong(name.span().start, problem))?;
        let definition = reader.pool(name.span().start, &pool, section)?;
        definitions.pools.insert(pool, definition);
    }
    Ok(definitions)
}

/// The file that is read.
struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn pool(
        &self,
        at: usize,
        name: &PoolName,
        section: &DeTable<'_>,
    ) -> Result<Definition, DefinitionError> {
        let keys: Vec<_> = std::iter::once(("on", Kind::Text)).chain(KEYS).collect();
        let mut settings = self.settings(section, &keys, "a pool")?;
        if settings.first().is_none_or(|first| first.key != "on") {
            let problem = format!(
                "pool {name} has no system; write `on = \"slurm\"` below `[{name}]`, or another one"
            );
            return Err(self.wrong(at, problem));
        }
        let on = settings.remove(0);
        Ok(Definition { on, settings })
    }

    fn limits(&self, section: &DeTable<'_>) -> Result<SiteLimits, DefinitionError> {
        let mut limits = SiteLimits::default();
        for setting in self.settings(section, &LIMIT_KEYS, "the limits")? {
            let number = || {
                let number = setting.values.first().and_then(|text| text.parse().ok());
                let number = number.filter(|number| (1..=ENGINES_MAX).contains(number));
                number.ok_or_else(|| DefinitionError {
                    line: setting.line,
                    problem: format!("`{}` is a number from 1 to {ENGINES_MAX}", setting.key),
                })
            };
            match setting.key {
                "max-engines" => limits.engines_max = Some(number()?),
                "max-jobs" => limits.jobs_max = Some(number()?),
                "max-pending" => limits.pending_max = Some(number()?),
                _ => limits.walltime_max = Some(setting),
            }
        }
        Ok(limits)
    }

    /// The settings of a section in the order of these keys, and no others.
    fn settings(
        &self,
        section: &DeTable<'_>,
        keys: &[(&'static str, Kind)],
        whose: &str,
    ) -> Result<Vec<Setting>, DefinitionError> {
        for name in section.keys() {
            let is_known = |(key, _): &(&str, Kind)| key == name.get_ref();
            if !keys.iter().any(is_known) {
                let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
                let problem = format!(
                    "{whose} cannot have `{}`; the keys are {}",
                    name.get_ref(),
                    names.join(", ")
                );
                return Err(self.wrong(name.span().start, problem));
            }
        }
        let mut settings = Vec::new();
        for (key, kind) in keys {
            let found = section.iter().find(|(name, _)| name.get_ref() == key);
            if let Some((name, value)) = found {
                let line = self.line(name.span().start);
                let values = kind.values(value).ok_or_else(|| DefinitionError {
                    line,
                    problem: format!("`{key}` is {}", kind.example(key)),
                })?;
                settings.push(Setting { key, values, line });
            }
        }
        Ok(settings)
    }

    fn wrong(&self, at: usize, problem: String) -> DefinitionError {
        DefinitionError { line: self.line(at), problem }
    }

    /// The line of a place, counted from 1.
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }
}

impl Kind {
    /// The values as texts, if they are of this kind.
    fn values(self, value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
        let value = value.get_ref();
        let text = |value: &DeValue<'_>| value.as_str().map(str::to_owned);
        let number = |value: &DeValue<'_>| {
            let number = value.as_integer()?;
            u64::from_str_radix(number.as_str(), number.radix()).ok().map(|it| it.to_string())
        };
        match self {
            Self::Text => Some(vec![text(value)?]),
            Self::Number => Some(vec![number(value)?]),
            Self::Either => Some(vec![text(value).or_else(|| number(value))?]),
            Self::List => match value.as_array() {
                Some(values) => values.iter().map(|value| text(value.get_ref())).collect(),
                None => Some(vec![text(value)?]),
            },
        }
    }

    /// Such a value in words.
    fn example(self, key: &str) -> String {
        match self {
            Self::Text => format!("a text: {key} = \"...\""),
            Self::Number => format!("a whole number: {key} = 8"),
            Self::Either => format!("a number, or a text: {key} = \"...\""),
            Self::List => format!("a list of texts: {key} = [\"...\", \"...\"]"),
        }
    }
}

/// The message of the parser, which may have several lines.
fn in_a_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = r#"
# What this site has.
[limits]
max-engines = 256
max-walltime = "12h"

[gpu]
on = "slurm"
n = "0..8"
per-job = 0x2
setup = ["module load cuda", "ulimit -c 0"]
label = "big"
args = ["--partition=gpu", "--gres=gpu:1"]

[big-hosts]
hosts = "hosts"
on = "ssh"
"#;

    #[test]
    fn pools_and_limits_are_read_with_their_lines() {
        let read = read(SITE).unwrap();
        let gpu = &read.pools[&"gpu".parse().unwrap()];
        let setting = |key, values: &[&str], line| Setting {
            key,
            values: values.iter().map(ToString::to_string).collect(),
            line,
        };
        assert_eq!(gpu.on, setting("on", &["slurm"], 8));
        let expected = [
            setting("n", &["0..8"], 9),
            setting("per-job", &["2"], 10),
            setting("setup", &["module load cuda", "ulimit -c 0"], 11),
            setting("label", &["big"], 12),
            setting(ARGS, &["--partition=gpu", "--gres=gpu:1"], 13),
        ];
        assert_eq!(gpu.settings, expected);
        let limits = read.limits.unwrap();
        assert_eq!((limits.engines_max, limits.jobs_max), (Some(256), None));
        assert_eq!(limits.walltime_max, Some(setting("max-walltime", &["12h"], 5)));
        assert_eq!(read.pools.len(), 2);
        assert_eq!(super::read("# nothing\n"), Ok(Definitions::default()));
    }

    #[test]
    fn a_wrong_file_says_the_line_and_how_to_mend_it() {
        for (text, expected) in [
            ("[a]\non = \"slurm\"\nn = \n", "line 3: this is no TOML: "),
            ("[a]\non = \"ssh\"\n\n[a]\non = \"ssh\"\n", "line 4: this is no TOML: duplicate key"),
            ("on = \"slurm\"\n", "line 1: `on` stands outside of a pool; write `[NAME]` on"),
            ("\n[a]\nn = 3\n", "line 2: pool a has no system; write `on = \"slurm\"` below `[a]`"),
            ("[\"a b\"]\non = \"ssh\"", "line 1: a pool's name has up to 32 letters"),
            ("[a]\non = \"ssh\"\nwalltme = 3\n", "line 3: a pool cannot have `walltme`; the keys"),
            ("[a]\non = \"ssh\"\nper-job = \"x\"", "line 3: `per-job` is a whole number: per-job"),
            ("[a]\non = \"ssh\"\nper-job = -1", "line 3: `per-job` is a whole number: per-job"),
            ("[a]\non = \"ssh\"\nargs = [1]", "line 3: `args` is a list of texts: args = ["),
            ("[a]\non = [\"ssh\"]", "line 2: `on` is a text: on = \"...\""),
            ("[limits]\nmax-jobs = 0", "line 2: `max-jobs` is a number from 1 to 100000"),
            ("[limits]\nn = 0", "line 2: the limits cannot have `n`; the keys are max-engines"),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(said.starts_with(expected), "{said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
