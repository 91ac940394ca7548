//! An engine of one's own: the stock one with a Rust function more.
//!
//! ```text
//! cargo run --release -p furlong-engine --example integrate
//! ```
//!
//! Any client then calls `integrate` by its name; `furlong_client` shows how.

use furlong_engine::{Engine, EngineError};

/// The area under x² from `a` to `b`, by the midpoints of `strips` strips.
fn integrate(a: f64, b: f64, strips: u32) -> f64 {
    let width = (b - a) / f64::from(strips);
    (0..strips).map(|strip| a + (f64::from(strip) + 0.5) * width).map(|x| x * x * width).sum()
}

fn main() -> Result<(), EngineError> {
    Engine::builder().function("integrate", integrate).software("integrate 1.0").run()
}
