//! `furlong completions`: what makes a shell complete commands and flags.

use anyhow::Result;
use clap::Command;
use clap_complete::Shell;
use furlong_wire::message::Stream;

use crate::exit::ExitCode;
use crate::print;

/// Flags of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 printed; 2 no such shell.

Examples:
  furlong completions bash > ~/.local/share/bash-completion/completions/furlong
  furlong completions zsh > ~/.zfunc/_furlong        # with ~/.zfunc in fpath
  furlong completions fish > ~/.config/fish/completions/furlong.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, mut command: Command) -> Result<ExitCode> {
    // Into memory first: the generator does not expect that its reader may leave.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "furlong", &mut script);
    print::own(Stream::Stdout, &script)?;
    Ok(ExitCode::SUCCESS)
}
