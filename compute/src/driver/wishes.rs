//! Who in this process waits for news of which wish. Bounded by the core, which takes so many wishes at a time and ends each.

use std::collections::HashMap;

use sixfold_log_format::wire::{WishReport, WishState};
use tokio::sync::watch;

/// Hears of one wish.
pub(crate) type WishNews = watch::Sender<Option<WishReport>>;

/// All who wait.
#[derive(Debug, Default)]
pub(crate) struct WishWaiters {
    waiting: HashMap<[u8; 16], Vec<WishNews>>,
}

impl WishWaiters {
    /// Somebody waits; `report` is what is known so far. Without any the core did not take the wish: the waiter is let go.
    pub(crate) fn wait(&mut self, news: WishNews, report: Option<WishReport>) {
        self.waiting.retain(|_, all| {
            all.retain(|news| !news.is_closed());
            !all.is_empty()
        });
        let Some(report) = report else { return };
        let (id, ended) = (report.id, has_ended(&report));
        let _gone = news.send(Some(report));
        if !ended {
            self.waiting.entry(id).or_default().push(news);
        }
    }

    /// A wish got further, or ended.
    pub(crate) fn tell(&mut self, report: &WishReport) {
        let Some(all) = self.waiting.get(&report.id) else {
            return;
        };
        for news in all {
            let _gone = news.send(Some(report.clone()));
        }
        if has_ended(report) {
            self.waiting.remove(&report.id);
        }
    }
}

fn has_ended(report: &WishReport) -> bool {
    matches!(report.state, WishState::Done | WishState::Refused)
}
