//! The crash suite's parts: which cases there are, what the clients write and how it is checked, a network between the processes
//! that can be cut, a disk that fails. Who starts and kills processes is `sixfold bench crash`.
//!
//! ```text
//!  case ──▶ the cycle (in the CLI) ──▶ processes ── relay ──▶ storage nodes ──▶ disk (a witness of theirs)
//!                   ▲                     │ said, a line each, through a pipe
//!                   └──── record ◀────────┘
//!  record + volume ──▶ check: lost, torn        history ──▶ judge      both ──▶ tally ──▶ JSON, Markdown
//! ```

pub mod case;

pub mod load;
pub mod work;

pub mod disk;
pub mod relay;

pub mod check;
pub mod tally;
