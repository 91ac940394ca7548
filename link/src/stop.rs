//! When a program is asked to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT or SIGTERM, or, if `with_stdin` is set, for the end of standard input: so a program that was
/// started by another ends with it, however that one ends. Returns why.
pub async fn requested(with_stdin: bool) -> &'static str {
    let stdin = async {
        if !with_stdin {
            std::future::pending::<()>().await;
        }
        let (ended, end) = tokio::sync::oneshot::channel();
        // A thread, since tokio's own reader of standard input cannot be cancelled and would keep the process.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = ended.send(());
        });
        let _ = end.await;
    };
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return "signals cannot be received";
    };
    tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "terminated",
        () = stdin => "its starter has ended",
    }
}
