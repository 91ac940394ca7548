//! One fuzz target, run by libFuzzer. `cargo xtask fuzz` builds it with the instrumentation that
//! libFuzzer reads, and says by two variables which target it is, and into which folder its seeds
//! go before the corpus is read.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use furlong_fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&Target> = OnceLock::new();

fuzz_target!(
    init: begin(),
    |data| {
        let target = TARGET.get().expect("libFuzzer begins before it runs anything");
        (target.run)(data);
    }
);

fn begin() {
    let name = std::env::var("FURLONG_FUZZ_TARGET").expect("`cargo xtask fuzz` names the target");
    let target = Target::named(&name).expect("`cargo xtask fuzz` knows the target");
    let folder = std::env::var_os("FURLONG_FUZZ_SEEDS")
        .expect("`cargo xtask fuzz` names a folder for seeds");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(Path::new(&folder).join(number.to_string()), seed)
            .expect("the folder for seeds can be written");
    }
    TARGET.get_or_init(|| target);
}
