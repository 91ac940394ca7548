//! `furlong demo`: a farm of one's own for a few seconds, on real text.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use furlong_broker::JournalArgs;
use furlong_client::{Arguments, CallSpec, Client, EngineTargets, Function, SourceFunction};
use furlong_wire::capability::ClusterName;
use furlong_wire::ids::EngineId;
use furlong_wire::message::Runtime;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::bench::farm::{Load, run as measure};
use crate::cluster::{LocalCluster, LocalOptions};
use crate::exit::ExitCode;
use crate::print;
use crate::program::Program;

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: furlong demo war-and-peace.txt")]
pub struct DemoArgs {
    /// Text files to count words in; by default this project's own documents
    files: Vec<PathBuf>,
    /// Engines
    #[arg(
        short = 'n',
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=64)
    )]
    engines: u32,
    /// Python interpreter of the engines
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
}

/// The word counter that is farmed out.
const SOURCE: &str = include_str!("../../examples/wordcount.py");
/// The text that is counted when no file is named.
const DOCUMENTS: &[(&str, &str)] = &[
    ("README.md", include_str!("../../README.md")),
    ("docs/ARCHITECTURE.md", include_str!("../../docs/ARCHITECTURE.md")),
    ("docs/PROTOCOL.md", include_str!("../../docs/PROTOCOL.md")),
    ("docs/SEMANTICS.md", include_str!("../../docs/SEMANTICS.md")),
    ("docs/SECURITY.md", include_str!("../../docs/SECURITY.md")),
    ("docs/guide/starting.md", include_str!("../../docs/guide/starting.md")),
];
/// The work that the demo makes of the text, as time on one engine.
const WORK: Duration = Duration::from_secs(2);
/// Passes over a document in one task.
const PASSES_PER_TASK: u64 = 4;
const WORDS_SHOWN: usize = 8;

type Counts = BTreeMap<String, u64>;

struct Document {
    name: String,
    text: String,
}

/// Runs the demo. Afterwards nothing runs, and nothing is left.
pub async fn run(args: DemoArgs, program: &Program) -> Result<ExitCode> {
    let documents = documents(&args.files)?;
    let home = tempfile::Builder::new()
        .prefix("furlong-demo-")
        .tempdir()
        .context("no folder for the demo")?;
    let options = LocalOptions {
        program: program.clone(),
        home: home.path().join("home"),
        cluster: ClusterName::default(),
        engines: args.engines,
        port: None,
        python: args.python,
        journal: JournalArgs::default(),
        engine_flags: Vec::new(),
        broker_memory: None,
        has_pools: false,
        is_open: false,
    };
    let mut cluster = LocalCluster::new(options);
    let mut interrupted = std::pin::pin!(furlong_host::stop::requested(false));
    let outcome = tokio::select! {
        outcome = show(&mut cluster, &documents) => outcome,
        reason = &mut interrupted => Err(anyhow::anyhow!("{reason}")),
    };
    cluster.stop().await;
    home.close().context("the demo's folder could not be removed")?;
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn show(cluster: &mut LocalCluster, documents: &[Document]) -> Result<()> {
    let began = Instant::now();
    cluster.start().await?;
    let client = cluster.client().await?;
    print::line(format!(
        "A broker and {} engines on this machine, every byte between them encrypted: up in {:.2} s.",
        cluster.engine_ids().len(),
        began.elapsed().as_secs_f64()
    ))?;
    greet(&client).await?;
    count_words(&client, documents).await?;
    figures(&client).await?;
    client.close().await;
    Ok(())
}

/// A word from every engine.
async fn greet(client: &Client) -> Result<()> {
    let code = "import os, platform\n\
                print(f'hello from engine {engine_id}: Python {platform.python_version()}, process {os.getpid()}')";
    for task in client.multiengine(EngineTargets::All).execute(code).await? {
        print::line(task.await?.report.stdout.text().trim_end())?;
    }
    Ok(())
}

/// Counts on one engine first, to know the answer and the time; then on all of them, as often as
/// makes the work worth it.
async fn count_words(client: &Client, documents: &[Document]) -> Result<()> {
    let function = Function::Source(Arc::new(SourceFunction::new(
        "wordcount.py",
        SOURCE.to_owned(),
        "count_text",
    )));
    let mut expected = Counts::new();
    let mut once = Duration::ZERO;
    for document in documents {
        let arguments = Arguments::json(vec![document.text.clone().into()]);
        let call = CallSpec::new(Runtime::Python, function.clone()).arguments(arguments);
        // The first time loads the function; the second is what a pass costs.
        client.tasks().call(&call).await?.await?;
        let result = client.tasks().call(&call).await?.await?;
        once += Duration::from_micros(result.report.times.run.run_us);
        add(&mut expected, &result.json()?, 1);
    }
    let passes =
        (WORK.as_secs_f64() / once.as_secs_f64().max(1e-6)).ceil().clamp(1.0, 20_000.0) as u64;
    let passes = passes.next_multiple_of(PASSES_PER_TASK);
    let words: u64 = expected.values().sum();
    print::lines(format!(
        "\n{} in {}, counted {} times over: about {:.1} s of work for one engine.",
        print::counted(words, "word"),
        print::counted(documents.len() as u64, "document"),
        print::grouped(passes),
        once.as_secs_f64() * passes as f64
    ))?;
    let began = Instant::now();
    let (counts, shares) = farm_out(client, &function, documents, passes / PASSES_PER_TASK).await?;
    let took = began.elapsed();
    let mut all = Counts::new();
    add(&mut all, &expected, passes);
    ensure!(counts == all, "the farm counted other words than one engine alone: this is a bug");
    print::lines(format!(
        "{:.2} s on the farm. The counts are those of one engine alone, {passes} times.\n",
        took.as_secs_f64()
    ))?;
    show_words(&expected)?;
    show_shares(&shares, took)
}

/// The number of tasks that each engine ran, and the time they took.
type Shares = BTreeMap<EngineId, (u64, Duration)>;

async fn farm_out(
    client: &Client,
    function: &Function,
    documents: &[Document],
    rounds: u64,
) -> Result<(Counts, Shares)> {
    let items: Vec<Arguments> = (0..rounds)
        .flat_map(|_| documents)
        .map(|document| Arguments::json(vec![document.text.clone().into(), PASSES_PER_TASK.into()]))
        .collect();
    let bar = ProgressBar::new(items.len() as u64);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} documents {eta}");
    let bar = bar.with_style(style.expect("the template is a constant and valid"));
    let mut counts = Counts::new();
    let mut shares = Shares::new();
    let results = client
        .tasks()
        .map(function.clone(), items)
        .runtime(Runtime::Python)
        .ordered(false)
        .stream()?;
    let mut results = std::pin::pin!(results);
    while let Some((_, result)) = results.next().await {
        let result = result?;
        add(&mut counts, &result.json()?, 1);
        if let Some(engine) = result.report.engine {
            let share = shares.entry(engine).or_default();
            share.0 += 1;
            share.1 += Duration::from_micros(result.report.times.run.run_us);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((counts, shares))
}

fn show_words(counts: &Counts) -> Result<()> {
    let mut words: Vec<(&String, &u64)> =
        counts.iter().filter(|(word, _)| word.len() > 3).collect();
    words.sort_by_key(|(word, count)| (std::cmp::Reverse(**count), (*word).clone()));
    let most = words.first().map_or(1, |(_, count)| **count);
    print::line("most frequent words of four letters or more")?;
    for (word, count) in words.into_iter().take(WORDS_SHOWN) {
        let bar = "#".repeat((count * 40 / most).max(1) as usize);
        print::line(format!("{count:>8} {word:<16} {bar}"))?;
    }
    Ok(())
}

fn show_shares(shares: &Shares, took: Duration) -> Result<()> {
    print::lines("\nwhat each engine did")?;
    for (engine, (tasks, busy)) in shares {
        let percent = 100.0 * busy.as_secs_f64() / took.as_secs_f64().max(1e-6);
        print::line(format!(
            "  engine {engine}: {tasks:>5} tasks, busy {:.2} s ({percent:.0} %)",
            busy.as_secs_f64()
        ))?;
    }
    Ok(())
}

/// The farm's own cost, measured now and here.
async fn figures(client: &Client) -> Result<()> {
    let load = |runtime, count, window| Load { runtime, size: 0, count, window };
    let rust = measure(client, load(Runtime::Native, 2_000, 1)).await?;
    let python = measure(client, load(Runtime::Python, 1_000, 1)).await?;
    let many = measure(client, load(Runtime::Native, 50_000, 1_000)).await?;
    print::lines(format!(
        "\na round trip through broker and engine: {} in Rust, {} in Python (median)",
        print::micros(rust.p50_us),
        print::micros(python.p50_us)
    ))?;
    print::line(format!(
        "no-ops through the shared queue: {} a second",
        print::grouped(many.per_s as u64)
    ))
}

fn add(sum: &mut Counts, counts: &Counts, times: u64) {
    for (word, count) in counts {
        *sum.entry(word.clone()).or_default() += count * times;
    }
}

fn documents(files: &[PathBuf]) -> Result<Vec<Document>> {
    if files.is_empty() {
        let own = DOCUMENTS
            .iter()
            .map(|(name, text)| Document { name: (*name).to_owned(), text: (*text).to_owned() });
        return Ok(own.collect());
    }
    let read = |path: &PathBuf| {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (name, text) =
            (path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned());
        Ok(Document { name, text })
    };
    let documents = files.iter().map(read).collect::<Result<Vec<Document>>>()?;
    let empty = documents.iter().find(|document| document.text.trim().is_empty());
    ensure!(
        empty.is_none(),
        "{} has no words to count",
        empty.map_or("", |document| &document.name)
    );
    Ok(documents)
}
