//! Injects faults into an instance, and ends them.

use anyhow::ensure;
use nix::sys::signal::Signal;

use super::instance::Instance;
use super::wire::Faults;
use crate::machines::{Disturbance, Program, SlowLink};

impl Instance {
    /// Cuts the instance's wire or mends it. A cut also separates it from metadata and AWS, unlike
    /// [`Instance::isolate`].
    pub fn link(&self, up: bool) -> anyhow::Result<()> {
        self.site.timeline.add(self.id(), if up { "link mended" } else { "link cut" });
        self.wire.change(|faults| faults.cut = !up)
    }

    /// Isolates the instance from all other instances, or ends that. Metadata and AWS stay reachable, as in a partition
    /// of the VPC.
    pub fn isolate(&self, isolated: bool) -> anyhow::Result<()> {
        self.site.timeline.add(self.id(), if isolated { "isolated" } else { "not isolated" });
        self.wire.change(|faults| faults.isolated = isolated)
    }

    /// Makes the instance's link slow in both directions; `None` makes it as fast as it was.
    pub fn slow(&self, link: Option<SlowLink>) -> anyhow::Result<()> {
        let what = match link {
            Some(SlowLink { kbit_per_s, queue }) => {
                let passes = kbit_per_s > 0 && !queue.is_zero();
                ensure!(passes, "a link without a rate or a queue lets nothing pass");
                format!("link slow: {kbit_per_s} kbit/s, a packet waits for {queue:?} at most")
            }
            None => "link not slow".to_owned(),
        };
        self.site.timeline.add(self.id(), what);
        self.wire.change(|faults| faults.slow = link)
    }

    /// Ends a cut, isolation and slowness, and continues skep and dockerd if a signal has stopped
    /// them. Also succeeds without a fault, and on an instance that is off or gone.
    pub fn mend(&self) -> anyhow::Result<()> {
        self.site.timeline.add(self.id(), "mended");
        self.supervisor.signal(Signal::SIGCONT);
        self.daemon().signal(Signal::SIGCONT);
        match self.wire.change(|faults| *faults = Faults::default()) {
            // Removed, with its wire.
            Err(_) if self.is_gone() => Ok(()),
            mended => mended,
        }
    }

    /// Applies a disturbance that an operator requests. Blocks for some milliseconds.
    ///
    /// # Errors
    ///
    /// When the instance is off (except for [`Disturbance::Mend`]), or the program does not run.
    pub(super) fn disturb(&self, what: Disturbance) -> anyhow::Result<()> {
        ensure!(self.is_on() || what == Disturbance::Mend, "{} is switched off", self.id());
        match what {
            Disturbance::Isolate => self.isolate(true),
            Disturbance::Cut => self.link(false),
            Disturbance::Slow(link) => self.slow(Some(link)),
            Disturbance::Mend => self.mend(),
            Disturbance::Kill(program) => self.signal(program, Signal::SIGKILL),
            Disturbance::Stop(program) => self.signal(program, Signal::SIGSTOP),
            Disturbance::Cont(program) => self.signal(program, Signal::SIGCONT),
        }
    }

    fn signal(&self, program: Program, signal: Signal) -> anyhow::Result<()> {
        let sent = match program {
            Program::Skep => self.kill_skep(signal),
            Program::Dockerd => self.signal_dockerd(signal),
        };
        ensure!(sent, "{program} does not run on {}", self.id());
        Ok(())
    }
}
