//! A map without end, in a process of its own, so that its memory can be measured.

use bytes::Bytes;
use furlong_client::{Arguments, Function};
use furlong_tests::measure::{rss_bytes, rss_peak_bytes};
use furlong_tests::work::Work;
use futures_util::StreamExt;

#[test]
fn a_map_over_an_endless_iterator_runs_in_constant_memory() {
    /// More than the 65 536 ends that the broker holds for its looks: a ring that is filled first.
    const WARM: u32 = 80_000;
    const ITEMS: u32 = 250_000;
    let work = Work::start_with(&[], &[&["-n", "2"]]);
    let (client_pid, broker_pid) = (std::process::id(), work.farm().pid());
    let items =
        (0_u32..).map(|item| Arguments::Raw(vec![Bytes::from(item.to_le_bytes().to_vec())]));
    let map = work.client().tasks().map(Function::Named("echo".into()), items);
    let mut results = map.ordered(true).cancel_on_drop(true).stream().unwrap();
    let mut take = |from: u32, to: u32| {
        work.within(async {
            for expected in from..to {
                let (index, result) = results.next().await.expect("it has no end");
                assert_eq!(index, expected as usize);
                assert_eq!(result.unwrap().data[0].as_ref(), expected.to_le_bytes());
            }
        });
    };
    take(0, WARM);
    let [client, broker] = [client_pid, broker_pid].map(rss_bytes);
    take(WARM, ITEMS);
    for (name, pid, before) in [("client", client_pid, client), ("broker", broker_pid, broker)] {
        let growth = rss_bytes(pid).saturating_sub(before);
        assert!(growth < 4 << 20, "the {name} grew by {} KiB", growth >> 10);
        assert!(
            rss_peak_bytes(pid) < 96 << 20,
            "the {name}'s peak is {} MiB",
            rss_peak_bytes(pid) >> 20
        );
    }
}
