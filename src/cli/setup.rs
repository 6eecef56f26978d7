//! `qvgen setup`: makes sure that there is a device which computes correctly.

use super::output;
use crate::kernels::device::{self, Selection};
use anyhow::{Context, bail};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Installs Mesa's software Vulkan from Debian's backports.
const DEBIAN_SCRIPT: &str = include_str!("../../assets/setup/debian.sh");

/// Arguments of `qvgen setup`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Print what would be installed, and stop
    #[arg(long)]
    dry_run: bool,
    /// Check only, install nothing
    #[arg(long)]
    check: bool,
}

/// Checks the default device; where there is none, installs software Vulkan on Debian.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let problem = match working_device() {
        Ok(name) => {
            output::line(&format!("ready: {name} passes the self-test"));
            return Ok(());
        }
        Err(problem) => problem,
    };
    if args.check {
        bail!(problem);
    }
    if !is_debian() {
        bail!("{problem}; install a driver for your graphics card, or use `--device cpu`");
    }
    output::note(&problem);
    if args.dry_run {
        output::line(DEBIAN_SCRIPT);
        return Ok(());
    }
    output::note("installing Mesa's software Vulkan from Debian's backports");
    install()?;
    // A process keeps the drivers that it found when it started, so a fresh one must look.
    let program = std::env::current_exe().context("finding this program")?;
    let check = Command::new(program).args(["setup", "--check"]).status();
    if !check.context("running the check")?.success() {
        bail!("the installation finished, but there still is no working adapter");
    }
    Ok(())
}

/// The name of the default adapter, if it works.
fn working_device() -> Result<String, String> {
    let open = device::open(&Selection::Auto, None).map_err(|err| err.to_string())?;
    match &open.adapter {
        Some(adapter) => Ok(adapter.describe()),
        None => Err("no GPU adapter was found".to_owned()),
    }
}

fn is_debian() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian")
}

fn install() -> anyhow::Result<()> {
    let mut shell = Command::new("sh")
        .stdin(Stdio::piped())
        .spawn()
        .context("starting sh to install the driver")?;
    if let Some(mut stdin) = shell.stdin.take() {
        stdin.write_all(DEBIAN_SCRIPT.as_bytes()).context("passing the script to sh")?;
    }
    let status = shell.wait().context("waiting for the installation")?;
    if !status.success() {
        bail!(
            "the installation failed ({status}); run `qvgen setup --dry-run` to see its commands, \
             which need root or sudo"
        );
    }
    Ok(())
}
