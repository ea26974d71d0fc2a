//! One cycle of `bench crash`: a writer with clients, the moment that the case names, the blow, what mends it, and commits again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use sixfold_benches::crash::case::{Case, How, When, Who};
use sixfold_benches::crash::relay::{Cut, Lost, ports_of};
use sixfold_benches::history::event::now_ns;
use sixfold_benches::history::plan::Draw;
use sixfold_log_format::VolumeEpoch;

use super::crash_site::{DiskKind, FLEET, LOOK_INTERVAL, NODE_LIMIT, Process, Site, Stage};
use super::crash_throttle::Throttle;
use crate::child::OwnedChild;
use crate::cluster_dir::az_of;

/// Clients that commit rows, and those of the history.
const CLIENTS: (u32, u32) = (8, 4);
/// Answers before anything happens.
const WARM_ANSWERS: usize = 100;
/// How long a writer may take to open when nothing is in its way any more, or commits to be answered again.
const AGAIN_LIMIT: Duration = Duration::from_secs(60);
/// How long a process may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How long a replacement may take.
const REPLACE_LIMIT: Duration = Duration::from_secs(120);
/// How long clients go on when all is well again.
const LINGER: Duration = Duration::from_millis(500);
/// How long to wait for the moment that a case names.
const MOMENT_LIMIT: Duration = Duration::from_secs(15);

/// How long a node whose disk fails may find nothing to write.
const FAIL_LIMIT: Duration = Duration::from_secs(5);
/// A writer opens within about so long, counted from the start of its process.
const OPENING_MS: u64 = 80;
/// And so long after its claim was seen.
const CLAIMED_MS: u64 = 6;

/// What is to be known of a cycle that came to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// Longest time without an answer from the blow until commits were answered again.
    pub(super) stall: Duration,
    /// From when it was mended until a commit was answered.
    pub(super) recovery: Duration,
    /// Whether it struck at the moment that the case names.
    pub(super) on_time: bool,
}

/// A cycle under way.
pub(super) struct Cycle<'a> {
    site: &'a mut Site,
    case: Case,
    draw: Draw,
    begun_ns: u64,
    create: bool,
    victims: Vec<usize>,
    /// A replacement under way: who leaves, who joins.
    replaced: Option<(usize, usize)>,
    verb: Option<OwnedChild>,
    throttle: Option<Throttle>,
    struck: Instant,
    mended: Instant,
    /// Clients from this number on are of the writer that commits when it was mended.
    heirs: u32,
    on_time: bool,
}

impl<'a> Cycle<'a> {
    pub(super) fn new(
        site: &'a mut Site,
        case: Case,
        seed: u64,
        begun_ns: u64,
        create: bool,
    ) -> Cycle<'a> {
        let mut cycle = Cycle {
            site,
            case,
            draw: Draw::new(seed),
            begun_ns,
            create,
            victims: Vec::new(),
            replaced: None,
            verb: None,
            throttle: None,
            struck: Instant::now(),
            mended: Instant::now(),
            heirs: 0,
            on_time: true,
        };
        cycle.choose();
        cycle
    }

    /// Draws who suffers.
    fn choose(&mut self) {
        if self.case.when == When::Membership {
            let out = self.drawn_host();
            let into = self.site.spare(&az_of(out));
            self.replaced = into.map(|into| (out, into));
        }
        let zone = az_of(self.drawn_host());
        let in_zone = (0..FLEET).filter(|index| az_of(*index) == zone);
        self.victims = match (self.case.who, self.replaced) {
            (Who::Writer | Who::Standby, _) => Vec::new(),
            (Who::Node, Some((out, into))) => {
                let other = self.drawn_host();
                vec![[out, into, other][self.below(3)]]
            }
            (Who::Node, None) => vec![self.drawn_host()],
            (Who::Az, _) => in_zone.collect(),
            (Who::AzPlusOne, _) => {
                let hosts = self.site.hosts.iter().copied();
                let others: Vec<usize> = hosts.filter(|index| az_of(*index) != zone).collect();
                let one = others.get(self.below(others.len().max(1))).copied();
                in_zone.chain(one).collect()
            }
            (Who::All, _) => (0..FLEET).collect(),
        };
        if self.case.how == How::IoError {
            // A spare writes nothing.
            let into = self.replaced.map(|(_, into)| into);
            let hosts = &self.site.hosts;
            self.victims
                .retain(|index| hosts.contains(index) || into == Some(*index));
        }
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.draw.below(count as u64)).expect("an index")
    }

    fn drawn_host(&mut self) -> usize {
        let place = self.below(self.site.hosts.len());
        self.site.hosts[place]
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.draw.below(below + 1))
    }

    /// Plays it. All processes that use the volume have ended afterwards, and all nodes serve.
    pub(super) async fn play(mut self) -> Result<Course> {
        let disk = match self.case.how {
            How::DiskFull | How::IoError => DiskKind::Failing,
            How::PowerCut | How::TornTail => DiskKind::Volatile,
            _ => DiskKind::Plain,
        };
        self.site.prepare(&self.victims, disk).await?;
        let flag = self.create.then_some("--create");
        let mut first = self.site.start_process(CLIENTS, self.begun_ns, flag)?;
        self.until_opened(&mut first).await?;
        self.until_answered(&mut first, |answers| answers.len() >= WARM_ANSWERS)
            .await?;
        if self.case.who.is_client() {
            self.client_case(first).await?;
        } else {
            self.node_case(first).await?;
        }
        if let Some(verb) = self.verb.take() {
            self.site.note("waiting for the replacement");
            // Whether it was done is looked at below; that it was given up is no fault.
            if let Err(error) = verb.finish(REPLACE_LIMIT).await {
                self.site.note(&format!("the replacement: {error:#}"));
            }
        }
        self.site.check_alive()?;
        Ok(self.course())
    }

    fn course(&self) -> Course {
        let log = self.site.log.borrow();
        let (mut last, mut stall, mut recovery) = (self.struck, Duration::ZERO, Duration::ZERO);
        for &(at, client) in log.answers.iter().filter(|(at, _)| *at >= self.struck) {
            stall = stall.max(at - last);
            last = at;
            if at >= self.mended && client >= self.heirs {
                recovery = at - self.mended;
                break;
            }
        }
        Course {
            stall,
            recovery,
            on_time: self.on_time,
        }
    }

    /// The writer, or who was about to become it, is struck; another one takes over.
    async fn client_case(&mut self, mut first: Process) -> Result<()> {
        let victim = match (self.case.who, self.case.when) {
            (Who::Standby, _) => {
                let mut standby = self.start(Some("--standby"))?;
                self.until(&mut standby, |standby| standby.stage() == Stage::Following)
                    .await?;
                let before = self.site.claim().await;
                self.strike_time();
                first.kill().await?;
                // It is patient for 300 ms.
                self.until_taking_over(&mut standby, before, 300).await?;
                standby
            }
            (_, When::Recovery) => {
                let before = self.site.claim().await;
                self.strike_time();
                first.kill().await?;
                let mut next = self.start(None)?;
                self.until_taking_over(&mut next, before, 0).await?;
                next
            }
            _ => {
                let hosts = self.site.hosts.clone();
                self.until_moment(&mut first, &hosts).await?;
                first
            }
        };
        let is_opening = self.case.when == When::Recovery;
        if is_opening {
            self.on_time &= victim.stage() != Stage::Opened;
        } else {
            self.strike_time();
        }
        self.site.note("the blow");
        let mut left = None;
        match self.case.how {
            How::Sigkill => victim.kill().await?,
            How::Sigstop => {
                victim.child.signal(Signal::STOP)?;
                left = Some(victim);
            }
            _ => {
                self.cut_process_off(&victim)?;
                left = Some(victim);
            }
        }
        self.mended = Instant::now();
        let mut next = self.start(None)?;
        self.heirs = next.first_client();
        while next.stage() != Stage::Opened {
            self.look(&mut next)?;
            if let Some(victim) = &left {
                // It may open other sockets.
                self.cut_process_off(victim)?;
            }
            ensure!(
                self.mended.elapsed() < AGAIN_LIMIT,
                "the volume does not open within {AGAIN_LIMIT:?}"
            );
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        self.site.note("taken over");
        self.until_answers_again(&mut next).await?;
        if let Some(mut victim) = left {
            let hold = self.millis(1_500);
            self.watch(&mut next, hold).await?;
            self.site.join();
            if self.case.how == How::Sigstop {
                victim.child.signal(Signal::CONT)?;
            }
            self.site.note("the victim goes on");
            let why = match is_opening {
                // It may still take the volume over: it was asked to.
                true => {
                    tokio::time::sleep(LINGER).await;
                    victim.finish(END_LIMIT).await?
                }
                false => {
                    self.watch(&mut next, LINGER).await?;
                    victim.check_alive()?;
                    victim.finish(END_LIMIT).await?
                }
            };
            self.judge_end(why, is_opening)?;
        }
        tokio::time::sleep(LINGER).await;
        let why = next.finish(END_LIMIT).await?;
        self.judge_end(why, false)
    }

    /// A process that ended with an error: that is right of one that opened a volume which another one took.
    fn judge_end(&self, why: Option<anyhow::Error>, may_fail: bool) -> Result<()> {
        let Some(why) = why else { return Ok(()) };
        let text = format!("{why:#}");
        let died = text.contains("exit status: 101") || text.contains("signal:");
        if died || !may_fail {
            return Err(why);
        }
        self.site.note(&format!("it ended: {text}"));
        Ok(())
    }

    /// Nodes are struck.
    async fn node_case(&mut self, first: Process) -> Result<()> {
        let mut writer = Some(first);
        if self.case.when == When::Recovery {
            let first = writer.take().context("no writer")?;
            let before = self.site.claim().await;
            first.kill().await?;
            let mut next = self.start(None)?;
            self.until_taking_over(&mut next, before, 0).await?;
            self.on_time &= next.stage() != Stage::Opened;
            writer = Some(next);
        } else if let Some(writer) = &mut writer {
            let victims = self.victims.clone();
            self.until_moment(writer, &victims).await?;
        }
        // Now and then a whole site goes, the writer with it.
        let site_goes = self.case.who == Who::All
            && matches!(self.case.how, How::Sigkill | How::PowerCut | How::TornTail)
            && self.draw.one_in(2);
        self.strike_time();
        self.site.note(&format!(
            "the blow: nodes {:?}{}",
            self.victims,
            if site_goes { " and the writer" } else { "" }
        ));
        if site_goes && let Some(writer) = writer.take() {
            writer.kill().await?;
        }
        self.strike().await?;
        let hold = self.hold();
        self.watch_some(writer.as_mut(), hold).await?;
        self.mended = Instant::now();
        self.mend().await?;
        self.site.note("mended");
        let mut writer = match writer {
            Some(writer) => writer,
            None => self.start(None)?,
        };
        if self.case.when != When::Recovery && !site_goes {
            self.heirs = 0;
        } else {
            self.heirs = writer.first_client();
        }
        if self.case.when == When::Idle {
            // Nobody asked before.
            self.mended = Instant::now();
            self.struck = self.mended;
            writer.child.tell("go")?;
        }
        self.until_opened(&mut writer).await?;
        self.until_answers_again(&mut writer).await?;
        self.watch(&mut writer, LINGER).await?;
        let why = writer.finish(END_LIMIT).await?;
        self.judge_end(why, false)
    }

    /// How long a fault lasts: mostly a moment, now and then longer than connections live.
    fn hold(&mut self) -> Duration {
        match self.case.how {
            How::DiskFull => Duration::from_secs(3),
            _ if self.draw.one_in(4) => Duration::from_millis(4_500),
            _ => Duration::from_millis(300) + self.millis(1_200),
        }
    }

    fn strike_time(&mut self) {
        self.struck = Instant::now();
    }

    fn start(&mut self, flag: Option<&str>) -> Result<Process> {
        // The verb does what it is to do itself when it finds no writer.
        let insists = self.case.when == When::Membership;
        let flag = flag.or(insists.then_some("--insist"));
        self.site.start_process(CLIENTS, self.begun_ns, flag)
    }

    async fn strike(&mut self) -> Result<()> {
        let victims = self.victims.clone();
        match self.case.how {
            How::Sigkill => {
                for index in victims {
                    self.site.take_node(index)?.kill()?;
                }
            }
            How::Sigstop => self.site.signal_nodes(&victims, Signal::STOP)?,
            How::Partition => {
                let lost = [Lost::Both, Lost::Both, Lost::Inbound, Lost::Outbound];
                let lost = lost[self.below(lost.len())];
                self.site.note(&format!("lost: {lost:?}"));
                self.site.relay.set(Cut {
                    nodes: victims.into_iter().collect(),
                    each_alone: self.case.who == Who::All,
                    lost: Some(lost),
                    ..Cut::default()
                });
            }
            How::DiskFull => {
                for index in victims {
                    self.site.node(index)?.tell("full")?;
                }
            }
            How::SlowDisk => {
                let mut ids = Vec::with_capacity(victims.len());
                for index in &victims {
                    ids.push(self.site.node(*index)?.id());
                }
                let dir = self.site.root().to_owned();
                self.throttle = Some(Throttle::new("slow", &dir, &ids)?);
            }
            How::IoError => self.fail_disks(&victims).await?,
            How::TornTail | How::PowerCut => self.cut_power(&victims).await?,
        }
        Ok(())
    }

    /// Nodes whose writes fail must end.
    async fn fail_disks(&mut self, victims: &[usize]) -> Result<()> {
        for &index in victims {
            self.site.node(index)?.tell("fail")?;
        }
        for &index in victims {
            let mut node = self.site.take_node(index)?;
            match node.ended(FAIL_LIMIT).await {
                Ok(Some(why)) => self.site.note(&format!("{why:#}")),
                Ok(None) => bail!("node {} ended well after a failed write", index + 1),
                // It had nothing to write, as one that does not hold its segment yet.
                Err(_) => {
                    self.on_time = false;
                    node.kill()?;
                }
            }
        }
        Ok(())
    }

    async fn cut_power(&mut self, victims: &[usize]) -> Result<()> {
        let how = match self.case.how {
            How::TornTail => "tail",
            _ => "power",
        };
        for &index in victims {
            let seed = self.draw.below(u64::MAX);
            let command = format!("cut {how} {seed}");
            self.site.node(index)?.tell(&command)?;
        }
        for &index in victims {
            let mut node = self.site.take_node(index)?;
            let lost = node.wait_for("lost ", NODE_LIMIT).await?;
            node.finish(NODE_LIMIT).await?;
            self.site.note(&format!("node {index} lost {lost}"));
        }
        Ok(())
    }

    async fn mend(&mut self) -> Result<()> {
        let victims = self.victims.clone();
        match self.case.how {
            How::Sigstop => self.site.signal_nodes(&victims, Signal::CONT)?,
            How::Partition => self.site.join(),
            How::DiskFull => {
                for index in victims {
                    self.site.node(index)?.tell("room")?;
                }
            }
            How::SlowDisk => self.throttle = None,
            How::Sigkill | How::IoError | How::TornTail | How::PowerCut => {
                self.site.start_nodes(&victims, DiskKind::Plain).await?;
            }
        }
        Ok(())
    }

    fn cut_process_off(&mut self, victim: &Process) -> Result<()> {
        if self.case.how != How::Partition {
            return Ok(());
        }
        let ports = ports_of(victim.child.id()).context("the victim's ports")?;
        self.site.relay.set(Cut {
            ports,
            ..Cut::default()
        });
        Ok(())
    }

    /// The moment that a case names, while the writer has the volume. Layers are looked for at these nodes.
    async fn until_moment(&mut self, writer: &mut Process, at: &[usize]) -> Result<()> {
        match self.case.when {
            When::Idle => {
                writer.child.tell("pause")?;
                self.watch(writer, Duration::from_millis(400)).await
            }
            When::Coalescing => self.until_layer(writer, at).await,
            When::Membership => self.until_replacing(writer).await,
            When::Load | When::Recovery => {
                let time = self.millis(500);
                self.watch(writer, time).await
            }
        }
    }

    /// A node begins to put redo into a layer: a file is there that was not.
    async fn until_layer(&mut self, writer: &mut Process, at: &[usize]) -> Result<()> {
        let at: Vec<usize> = at
            .iter()
            .copied()
            .filter(|index| self.site.hosts.contains(index))
            .collect();
        let before: Vec<_> = at.iter().map(|index| self.site.layers(*index)).collect();
        let until = Instant::now() + MOMENT_LIMIT;
        loop {
            let is_new = |(index, before): (&usize, _)| !self.site.layers(*index).is_subset(before);
            if at.iter().zip(&before).any(is_new) {
                return Ok(());
            }
            if Instant::now() >= until {
                self.site.note("nobody puts redo into a layer");
                self.on_time = false;
                return Ok(());
            }
            self.look(writer)?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A segment is being replaced.
    async fn until_replacing(&mut self, writer: &mut Process) -> Result<()> {
        let Some((out, into)) = self.replaced else {
            self.on_time = false;
            return Ok(());
        };
        let id = |index: usize| self.site.cluster.nodes[index].node.to_string();
        let flags = [
            ("node", id(out)),
            ("onto", id(into)),
            ("timeout", "90".to_owned()),
        ];
        let verb = self.site.start_verb(&["node", "replace"], &flags)?;
        self.site.note(&format!("node {out} is replaced by {into}"));
        let verb = self.verb.insert(verb);
        // It takes about a second; the verb itself needs a moment to begin.
        let time = Duration::from_millis(50 + self.draw.below(1_000));
        let until = Instant::now() + time;
        while Instant::now() < until {
            writer.check_alive()?;
            if verb.check_alive().is_err() {
                self.on_time = false;
                break;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// A process is about to take over: at a time drawn at random, or just after its claim was seen.
    async fn until_taking_over(
        &mut self,
        process: &mut Process,
        before: Option<VolumeEpoch>,
        patience_ms: u64,
    ) -> Result<()> {
        if self.draw.one_in(2) {
            let time = Duration::from_millis(patience_ms) + self.millis(OPENING_MS);
            tokio::time::sleep(time).await;
            return Ok(());
        }
        let until = Instant::now() + MOMENT_LIMIT;
        while process.stage() != Stage::Opened && self.site.claim().await <= before {
            process.check_alive()?;
            ensure!(Instant::now() < until, "nobody takes over");
        }
        let time = self.millis(CLAIMED_MS);
        tokio::time::sleep(time).await;
        Ok(())
    }

    async fn until_opened(&self, process: &mut Process) -> Result<()> {
        self.until(process, |process| process.stage() == Stage::Opened)
            .await
    }

    async fn until(&self, process: &mut Process, is: impl Fn(&Process) -> bool) -> Result<()> {
        let until = Instant::now() + AGAIN_LIMIT;
        while !is(process) {
            process.check_alive()?;
            ensure!(
                Instant::now() < until,
                "a writer is not where it should be within {AGAIN_LIMIT:?}"
            );
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    async fn until_answers_again(&mut self, writer: &mut Process) -> Result<()> {
        let (mended, heirs) = (self.mended, self.heirs);
        self.until_answered(writer, |answers| {
            let mut newest = answers.iter().rev();
            newest.any(|(at, client)| *at >= mended && *client >= heirs)
        })
        .await
    }

    async fn until_answered(
        &mut self,
        writer: &mut Process,
        enough: impl Fn(&[(Instant, u32)]) -> bool,
    ) -> Result<()> {
        let until = Instant::now() + AGAIN_LIMIT;
        while !enough(&self.site.log.borrow().answers) {
            self.look(writer)?;
            ensure!(
                Instant::now() < until,
                "no commit is answered within {AGAIN_LIMIT:?}"
            );
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Every process that should live does.
    fn look(&mut self, writer: &mut Process) -> Result<()> {
        writer.check_alive()?;
        self.site.check_alive()
    }

    async fn watch(&mut self, writer: &mut Process, time: Duration) -> Result<()> {
        self.watch_some(Some(writer), time).await
    }

    async fn watch_some(&mut self, writer: Option<&mut Process>, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let mut writer = writer;
        loop {
            if let Some(writer) = &mut writer {
                writer.check_alive()?;
            }
            self.site.check_alive()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
        }
    }
}

/// The stamp that the keys of a cycle's history are counted from.
pub(super) fn stamp() -> u64 {
    now_ns()
}
