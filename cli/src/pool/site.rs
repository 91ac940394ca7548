//! Pools that are defined by name: by a site's administrator in `/etc/furlong/pools.toml`, and by
//! the user in `pools.toml` of the home. What the user's file defines goes before, and the flags of
//! a command before both; the bounds in the site's file hold for all.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use furlong_host::durations;
use furlong_host::home::Home;
use furlong_pool::definition::{self, ARGS, Definition, Definitions, Setting, SiteLimits};
use furlong_pool::keeper::Wanted;
use furlong_pool::script::quoted;
use furlong_pool::spec::PoolSpec;
use furlong_pool::system;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use serde_json::{Value, json};

use super::options::{self, PoolFlags};
use super::show::table;
use crate::cluster::EngineFlags;
use crate::print;

/// The file of a site's administrator.
const SITE_FILE: &str = "/etc/furlong/pools.toml";
/// The variable that names another file in its place.
const SITE_VARIABLE: &str = "FURLONG_SITE_POOLS";
/// The name of the user's file, in the home.
const USER_FILE: &str = "pools.toml";
/// The most bytes of a file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The definitions that hold here.
#[derive(Debug)]
pub struct Site {
    /// The user's file, then the site's.
    files: Vec<SiteFile>,
    /// The administrator's bounds.
    limits: SiteLimits,
    walltime_max: Option<Duration>,
    /// The administrator's file.
    path: PathBuf,
    /// The user's file.
    user_path: PathBuf,
}

#[derive(Debug)]
struct SiteFile {
    path: PathBuf,
    definitions: Definitions,
}

/// The flags of a definition, as they would be on a command line.
#[derive(Clone, Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub struct Defined {
    /// Engines
    #[arg(long = "n")]
    pub engines: Option<Wanted>,
    /// Python interpreter of the engines
    #[arg(long)]
    pub python: Option<PathBuf>,
    #[command(flatten)]
    pub pool: PoolFlags,
    #[command(flatten)]
    pub engine: EngineFlags,
}

impl Site {
    /// Reads the files that are there.
    ///
    /// # Errors
    /// One is not good; the message has the line, and how to mend it.
    pub fn read(home: &Home) -> Result<Self> {
        let user_path = home.path().join(USER_FILE);
        let site_path = site_path();
        let mut files = Vec::new();
        if let Some(definitions) = read(&user_path)? {
            ensure!(
                definitions.limits.is_none(),
                "{}: `[limits]` are the administrator's, and hold in {} alone; remove the section",
                user_path.display(),
                site_path.display()
            );
            files.push(SiteFile { path: user_path.clone(), definitions });
        }
        let mut limits = None;
        if let Some(mut definitions) = read(&site_path)? {
            limits = definitions.limits.take();
            files.push(SiteFile { path: site_path.clone(), definitions });
        }
        let limits = limits.unwrap_or_default();
        let walltime_max = limits.walltime_max.as_ref().map(|it| walltime(it, &site_path));
        let walltime_max = walltime_max.transpose()?;
        Ok(Self { files, limits, walltime_max, path: site_path, user_path })
    }

    /// The definition of this name, as flags. Its own `--on` is a system.
    ///
    /// # Errors
    /// A value in it is not good; the message has the line.
    pub fn find(&self, name: &str) -> Result<Option<Defined>> {
        let found = self.find_in_file(name);
        found.map(|(file, definition)| flags(definition, &file.path)).transpose()
    }

    /// The file in which the definition of this name is.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        self.find_in_file(name).map(|(file, _)| file.path.as_path())
    }

    /// Checks all values, also those of definitions that another file's go before.
    ///
    /// # Errors
    /// A value is not good; the message has the file and the line.
    pub fn check_values(&self) -> Result<()> {
        let of_file = |file: &SiteFile| {
            let mut pools = file.definitions.pools.values();
            pools.try_for_each(|definition| flags(definition, &file.path).map(drop))
        };
        self.files.iter().try_for_each(of_file)
    }

    /// The names of all definitions, as words for a sentence; none if there are none.
    pub fn names(&self) -> Option<String> {
        let names: Vec<String> = self.all().map(|(name, ..)| format!("`{name}`")).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// A number of jobs or a time that nobody has asked for, within the administrator's bounds.
    pub fn bounded(&self, limits: (u32, u32), walltime: Duration) -> (u32, u32, Duration) {
        let at_most = |number: u32, most: Option<u32>| most.map_or(number, |most| number.min(most));
        (
            at_most(limits.0, self.limits.jobs_max),
            at_most(limits.1, self.limits.pending_max),
            self.walltime_max.map_or(walltime, |most| walltime.min(most)),
        )
    }

    /// Checks what is wanted against the administrator's bounds.
    ///
    /// # Errors
    /// The bound that it is beyond, and the file in which that is.
    pub fn check(&self, spec: &PoolSpec) -> Result<()> {
        let SiteLimits { engines_max, jobs_max, pending_max, .. } = self.limits;
        let bounds = [
            (spec.wanted.max, engines_max, "engines", "-n"),
            (spec.limits.jobs_max, jobs_max, "jobs at a time", "--max-jobs"),
            (spec.limits.pending_max, pending_max, "jobs that wait", "--max-pending"),
        ];
        let path = self.path.display();
        for (number, most, what, flag) in bounds {
            if let Some(most) = most.filter(|most| number > *most) {
                bail!(
                    "{number} {what} are too many: a pool has {most} at most here, by {path}; give \
                     less with {flag}"
                );
            }
        }
        let walltime = Duration::from_secs(spec.job.walltime_s);
        if let Some(most) = self.walltime_max.filter(|most| walltime > *most) {
            bail!(
                "a job may take {} at most here, by {path}; give less with --walltime",
                durations::short(micros(most))
            );
        }
        Ok(())
    }

    /// Prints the definitions as a table, and the administrator's bounds.
    ///
    /// # Errors
    /// A value in a file is not good, or standard output is closed.
    pub fn print(&self) -> Result<()> {
        self.check_values()?;
        let mut rows = vec![["name", "system", "engines", "file"].map(str::to_owned).to_vec()];
        for (name, file, definition) in self.all() {
            let engines = definition.settings.iter().find(|setting| setting.key == "n");
            let engines = engines.map_or_else(|| "-".to_owned(), |it| it.values.join(" "));
            let system = definition.on.values.join(" ");
            let place = place(&file.path);
            let place = match self.hidden(name, file) {
                Some(hidden) => format!("{place}, before {}", hidden.display()),
                None => place,
            };
            rows.push(vec![name.to_owned(), system, engines, place]);
        }
        if rows.len() == 1 {
            print::line(format!(
                "no pool is defined; `[NAME]` and its flags define one, in {} or {}",
                place(&self.user_path),
                self.path.display()
            ))?;
        } else {
            table(&rows).iter().try_for_each(print::line)?;
        }
        let bounds = self.bounds();
        if bounds.is_empty() {
            return Ok(());
        }
        print::line(format!("a pool has at most {}, by {}", bounds, self.path.display()))
    }

    /// The definitions as a JSON array.
    ///
    /// # Errors
    /// A value in a file is not good.
    pub fn as_json(&self) -> Result<Value> {
        self.check_values()?;
        let all = self.all().map(|(name, file, definition)| {
            let settings =
                definition.settings.iter().map(|it| (it.key.to_owned(), json!(it.values)));
            json!({
                "name": name, "on": definition.on.values.concat(), "file": file.path,
                "before": self.hidden(name, file),
                "settings": settings.collect::<serde_json::Map<_, _>>(),
            })
        });
        Ok(all.collect())
    }

    /// The other file that defines this name, whose definition does not hold.
    fn hidden(&self, name: &str, by: &SiteFile) -> Option<&Path> {
        let mut others = self.files.iter().filter(|file| file.path != by.path);
        let hidden =
            others.find(|file| file.definitions.pools.keys().any(|it| it.as_str() == name));
        hidden.map(|file| file.path.as_path())
    }

    fn find_in_file(&self, name: &str) -> Option<(&SiteFile, &Definition)> {
        self.files.iter().find_map(|file| {
            let mut pools = file.definitions.pools.iter();
            pools.find(|(it, _)| it.as_str() == name).map(|(_, definition)| (file, definition))
        })
    }

    /// All definitions, each name once.
    fn all(&self) -> impl Iterator<Item = (&str, &SiteFile, &Definition)> {
        let names = self.files.iter().flat_map(|file| file.definitions.pools.keys());
        let names: std::collections::BTreeSet<_> = names.collect();
        names.into_iter().filter_map(|name| {
            let (file, definition) = self.find_in_file(name.as_str())?;
            Some((name.as_str(), file, definition))
        })
    }

    /// The administrator's bounds in words.
    fn bounds(&self) -> String {
        let SiteLimits { engines_max, jobs_max, pending_max, .. } = self.limits;
        let numbers =
            [(engines_max, "engines"), (jobs_max, "jobs"), (pending_max, "jobs that wait")];
        let numbers = numbers.into_iter();
        let numbers = numbers.filter_map(|(most, what)| Some(format!("{} {what}", most?)));
        let walltime = self.walltime_max.map(|most| durations::short(micros(most)) + " a job");
        numbers.chain(walltime).collect::<Vec<_>>().join(", ")
    }
}

/// A path as a person would write it.
fn place(path: &Path) -> String {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(inner) => format!("~/{}", inner.display()),
        None => path.display().to_string(),
    }
}

fn site_path() -> PathBuf {
    let named = std::env::var_os(SITE_VARIABLE).filter(|path| !path.is_empty());
    named.map_or_else(|| SITE_FILE.into(), PathBuf::from)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn walltime(setting: &Setting, path: &Path) -> Result<Duration> {
    let text = setting.values.concat();
    let time = durations::limit(&text).map_err(|error| wrong(setting, path, &text, &error))?;
    ensure!(time >= options::WALLTIME_MIN, wrong(setting, path, &text, A_MINUTE));
    Ok(time)
}

/// The flags of a definition. Each is checked alone, so that the line of a wrong one can be said.
fn flags(definition: &Definition, path: &Path) -> Result<Defined> {
    let on = definition.on.values.concat();
    if !options::is_system(&on) {
        let problem = format!("there is no such system; there are {}", options::systems());
        return Err(wrong(&definition.on, path, &on, &problem));
    }
    let settings = [&definition.on].into_iter().chain(&definition.settings);
    let mut all = Vec::new();
    for setting in settings {
        let words = words(setting, path);
        let wrong = |problem: &str| wrong(setting, path, &setting.values.join(" "), problem);
        let alone = Defined::try_parse_from(&words).map_err(|error| {
            let inner = std::error::Error::source(&error).map(ToString::to_string);
            wrong(&inner.unwrap_or_else(|| first_line(&error.to_string())))
        })?;
        check_for_system(&on, &alone.pool).map_err(|problem| wrong(&problem))?;
        let files = [&alone.pool.template, &alone.pool.hosts];
        for file in files.into_iter().flatten() {
            if read_trusted(file)?.is_none() {
                return Err(wrong(&format!("there is no {}", file.display())));
            }
        }
        all.extend(words);
    }
    let defined = Defined::try_parse_from(all);
    defined.map_err(|error| anyhow!("{}: {}", path.display(), first_line(&error.to_string())))
}

/// Checks a setting that this system may not take.
fn check_for_system(on: &str, flags: &PoolFlags) -> Result<(), String> {
    let system = system::by_name(on);
    if flags.hosts.is_some() && on != "ssh" {
        return Err("hosts are for `on = \"ssh\"`".to_owned());
    }
    if flags.image.is_some() && system.is_none_or(|system| !system.is_of_pods) {
        return Err("images are for `on = \"k8s\"`".to_owned());
    }
    if flags.walltime.is_some_and(|walltime| walltime < options::WALLTIME_MIN) {
        return Err(A_MINUTE.to_owned());
    }
    match system {
        Some(system) => (system.check_args)(&flags.args),
        None if flags.args.is_empty() || on == "mpi" => Ok(()),
        None => Err("they are for a batch system's command, and `ssh` has none".to_owned()),
    }
}

/// The least time of a job, in words.
const A_MINUTE: &str = "it is at least a minute: jobs count in minutes";

/// The words of a setting on a command line. Files stand beside the one that names them.
fn words(setting: &Setting, path: &Path) -> Vec<String> {
    if setting.key == ARGS {
        return std::iter::once("--".to_owned()).chain(setting.values.iter().cloned()).collect();
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let values = setting.values.iter().map(|value| match setting.key {
        "template" | "hosts" => folder.join(value).to_string_lossy().into_owned(),
        _ => value.clone(),
    });
    values.map(|value| format!("--{}={value}", setting.key)).collect()
}

fn wrong(setting: &Setting, path: &Path, value: &str, problem: &str) -> anyhow::Error {
    let Setting { key, line, .. } = setting;
    anyhow!("{}: line {line}: `{key}` cannot be `{value}`: {problem}", path.display())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// The definitions of a file; none if there is none.
fn read(path: &Path) -> Result<Option<Definitions>> {
    let Some(text) = read_trusted(path)? else { return Ok(None) };
    let read = definition::read(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    Ok(Some(read))
}

/// Reads a file whose lines become commands: only this user or root may have written it. All is
/// checked on the open file.
fn read_trusted(path: &Path) -> Result<Option<String>> {
    let cannot = || format!("cannot read {}", path.display());
    // A pipe would hold the program until somebody writes.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match opened {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened.with_context(cannot)?,
    };
    check_trusted(&file, path)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).with_context(cannot)?;
    ensure!(
        text.len() as u64 <= FILE_BYTES_MAX,
        "{} has more than {FILE_BYTES_MAX} bytes",
        path.display()
    );
    Ok(Some(text))
}

fn check_trusted(file: &File, path: &Path) -> Result<()> {
    let metadata = file.metadata()?;
    let (shown, name) = (path.display(), quoted(&path.to_string_lossy()));
    ensure!(metadata.is_file(), "{shown} is not a file; move it away, or make it one");
    let (owner, user) = (metadata.uid(), geteuid().as_raw());
    ensure!(
        owner == user || owner == 0,
        "{shown} belongs to user {owner}, who could run commands as you; `chown root {name}` by \
         root mends it"
    );
    let mode = metadata.mode() & 0o7777;
    ensure!(
        mode & 0o022 == 0,
        "{shown} can be written by others ({mode:04o}), who could run commands as you; `chmod \
         go-w {name}` mends it"
    );
    Ok(())
}
