//! `sixfold top`: a cluster in a terminal, live. The same picture as the console's, asked by the same eye; see [`crate::observe`].
//!
//! Keys: `q` ends, `space` pauses, `s` sorts the nodes by another column, `r` asks at once.

mod draw;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use ratatui::backend::{Backend, TestBackend};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal};

use self::draw::{Look, Order};
use crate::console::LookArgs;
use crate::observe::collect::ClusterEye;
use crate::observe::picture::Picture;

/// How long it rests between two looks at the keyboard.
const KEY_INTERVAL: Duration = Duration::from_millis(25);
/// Width of the picture that `--once` prints, columns.
const ONCE_COLUMNS: u16 = 132;
/// Its height, at most.
const ONCE_LINES: u16 = 200;

/// Flags of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    look: LookArgs,
    /// How often the cluster is asked, milliseconds
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(200..=60_000))]
    interval_ms: u64,
    /// Print one picture as text and end
    #[arg(long)]
    once: bool,
    /// No colors; also with NO_COLOR
    #[arg(long)]
    no_color: bool,
}

/// Shows it.
pub(crate) fn run(args: &TopArgs) -> Result<()> {
    let (cluster, writer) = args.look.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let interval = Duration::from_millis(args.interval_ms);
    runtime.block_on(async {
        let mut eye = ClusterEye::new(cluster, writer)?;
        let shown = if args.once {
            once(&mut eye, interval).await
        } else {
            ensure!(
                std::io::stdout().is_terminal(),
                "standard output is no terminal: `sixfold top --once` prints one picture"
            );
            let has_color = !args.no_color && std::env::var_os("NO_COLOR").is_none();
            let mut terminal = ratatui::try_init()?;
            let shown = live(&mut terminal, &mut eye, interval, has_color).await;
            ratatui::try_restore()?;
            shown
        };
        eye.close().await;
        shown
    })
}

/// Prints one picture. It looks twice, so that rates are of the interval between.
async fn once(eye: &mut ClusterEye, interval: Duration) -> Result<()> {
    eye.look().await;
    tokio::time::sleep(interval).await;
    let picture = eye.look().await;
    say!("{}", text_of(&picture)?);
    let up = picture.nodes.iter().filter(|node| node.is_up).count();
    ensure!(up > 0, "no node answered");
    Ok(())
}

/// A picture as lines of text.
fn text_of(picture: &Picture) -> Result<String> {
    let lines = draw::lines_wanted(picture).clamp(1, ONCE_LINES);
    let mut terminal = Terminal::new(TestBackend::new(ONCE_COLUMNS, lines))?;
    let look = Look::default();
    terminal.draw(|frame| draw::draw(frame, Some(picture), &look))?;
    let size = terminal.backend().size()?;
    let buffer = terminal.backend().buffer();
    let line = |y| {
        let cells = (0..size.width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    let lines: Vec<String> = (0..size.height).map(line).collect();
    Ok(lines.join("\n").trim_end().to_owned())
}

/// Shows pictures until `q`.
async fn live(
    terminal: &mut DefaultTerminal,
    eye: &mut ClusterEye,
    interval: Duration,
    has_color: bool,
) -> Result<()> {
    let mut picture = None;
    let mut look = Look {
        has_color,
        is_live: true,
        ..Look::default()
    };
    let mut due = Instant::now();
    loop {
        terminal.draw(|frame| draw::draw(frame, picture.as_ref(), &look))?;
        if Instant::now() >= due && !look.is_paused {
            // The answer may take two seconds; keys wait for it no longer than that.
            picture = Some(eye.look().await);
            due = Instant::now() + interval;
            continue;
        }
        // Connections are kept alive meanwhile.
        tokio::time::sleep(KEY_INTERVAL).await;
        while event::poll(Duration::ZERO)? {
            let Event::Key(key) = event::read()? else {
                continue;
            };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Ok(());
                }
                KeyCode::Char(' ' | 'p') => look.is_paused = !look.is_paused,
                KeyCode::Char('s') => look.order = look.order.next(),
                KeyCode::Char('r') => due = Instant::now(),
                KeyCode::Down | KeyCode::Char('j') => look.scroll = look.scroll.saturating_add(1),
                KeyCode::Up | KeyCode::Char('k') => look.scroll = look.scroll.saturating_sub(1),
                _ => {}
            }
        }
    }
}

impl Order {
    /// What `s` goes on to.
    fn next(self) -> Order {
        match self {
            Order::Zone => Order::Lag,
            Order::Lag => Order::Ack,
            Order::Ack => Order::Redo,
            Order::Redo => Order::Zone,
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
