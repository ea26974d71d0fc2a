//! Measures of a Sixfold cluster: what `sixfold bench` runs. Clusters and processes are given, not started here.
//!
//! Every figure is measured in the run that prints it. On a small machine only the ratios within one run mean
//! anything: [`commit`] is the engine, [`bare`] the same bytes through the same transport, processes and disks without an
//! engine, [`floor`] what the transport and the disk do alone.

pub mod draw;
pub mod latency;
pub mod pace;

pub mod commit;
pub mod wire;

pub mod fill;
pub mod miss;
pub mod mixed;
pub mod points;
pub mod read;

pub mod history;

pub mod bare;
pub mod bare_node;

pub mod floor;

pub mod node;

pub mod outage;
pub mod reopen;

pub mod crash;
pub mod repair;
