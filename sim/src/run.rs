//! One run: a plan in, an outcome out. A panic of a core is an outcome too.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::plan::Plan;
pub use crate::world::Outcome;
use crate::world::World;

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of a run are told by its outcome, not on standard error.
fn catch_quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CATCHING.with(Cell::get) {
                return before(info);
            }
            let text = info.payload_as_str().unwrap_or("a panic without words");
            let place = info
                .location()
                .map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
            PANIC.with(|panic| *panic.borrow_mut() = Some(format!("{text}{place}")));
        }));
    });
}

/// Runs a plan. `tells`: with a story.
pub fn run(plan: &Plan, tells: bool) -> Outcome {
    catch_quietly();
    let mut world = World::new(plan.clone(), tells);
    CATCHING.with(|catching| catching.set(true));
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let panic = ended.is_err().then(|| {
        PANIC
            .with(|panic| panic.borrow_mut().take())
            .unwrap_or_default()
    });
    let outcome = world.outcome(panic);
    // What a panic left behind may panic again.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(world)));
    CATCHING.with(|catching| catching.set(false));
    outcome
}

/// Runs what a seed means.
pub fn run_seed(seed: u64) -> Outcome {
    run(&Plan::draw(seed), false)
}
