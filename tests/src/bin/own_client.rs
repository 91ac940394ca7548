//! A client that submits two tasks and then does nothing, for tests that kill it.

use std::error::Error;
use std::future::pending;
use std::process::ExitCode;

use furlong_client::Client;
use furlong_tests::work::python;

/// Submits tasks that hold their engine: each says in a file of the folder that it has begun, and
/// waits for another.
async fn submit(
    capability: &str,
    folder: &str,
    cancel_on_disconnect: bool,
) -> Result<(), Box<dyn Error>> {
    let builder =
        Client::builder().capability(capability).cancel_on_disconnect(cancel_on_disconnect);
    let client = builder.connect().await?;
    let mut tasks = Vec::new();
    for name in ["first", "second"] {
        let files = ["begun", "release"].map(|end| format!("{folder}/{name}.{end}").into());
        tasks.push(client.tasks().call(&python("hold", files)).await?);
    }
    // The answer comes after the submits have arrived.
    client.engines().await?;
    println!("submitted");
    pending().await
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [capability, folder, cancel_on_disconnect] = args.as_slice() else {
        eprintln!("usage: own_client CAPABILITY FOLDER true|false");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map(|runtime| {
        runtime.block_on(submit(capability, folder, cancel_on_disconnect == "true"))
    });
    eprintln!("own_client: {ended:?}");
    ExitCode::FAILURE
}
