//! Kubernetes. A job is a pod of its own, which nobody but the pool's keeper replaces: no
//! controller ends a busy pod to have fewer, and none starts one again whose engines have left.

use serde::Deserialize;

use super::{CancelWaiting, Commands, NamedJobs, System, Words, shortened};
use crate::keeper::{End, JobId, JobState, Listed};

/// Kubernetes, from 1.25 on.
pub static KUBERNETES: System = System {
    name: "k8s",
    title: "Kubernetes",
    commands: Commands {
        submit: &["kubectl", "create", "-o", "name", "-f", "-"],
        check: Some(&["kubectl", "create", "--dry-run=server", "-o", "name", "-f", "-"]),
        list_named: None,
        list_own: &["kubectl", "get", "pods", "-l", MANAGED, "-o", "json"],
        // One that has begun meanwhile is told to finish what it runs.
        cancel_waiting: CancelWaiting::Asks(&DELETE),
        cancel: &["kubectl", "delete", "pods", "--ignore-not-found", "--wait=false", "--now"],
    },
    script: MANIFEST,
    doubled: None,
    job_variable: "${FURLONG_POD}",
    words: Words {
        states: &[
            ("Pending", JobState::Pending),
            ("Succeeded", JobState::Ended(End::Completed)),
            ("Failed", JobState::Ended(End::Failed)),
        ],
        none: &[],
        full: &["exceeded quota", "Too many requests", "TooManyRequests"],
        forbidden: &["(Forbidden)", "(Unauthorized)", "must be logged in to the server"],
        no_node: &[],
        remedies: &[
            (
                "violates PodSecurity",
                "change the manifest of `furlong pool template k8s`, and name it with --template",
            ),
            ("in API group", "ask for a role with the rights in the guide's page on Kubernetes"),
            ("nsufficient ", "no node has that much; ask for less with --cpus or --memory"),
            ("ImagePull", IMAGE),
            ("InvalidImageName", IMAGE),
            ("ErrImageNeverPull", IMAGE),
            ("must be logged in to the server", "log in again: `kubectl auth whoami` says who"),
            ("was refused - did you", "name the cluster with -- --context=NAME"),
            ("Unable to connect to the server", "try `kubectl version`"),
        ],
        prefaces: &["Error from server (Forbidden): error when creating \"STDIN\": ", "error: "],
        variables: &["KUBECTL_"],
    },
    check_args,
    check_template: |_| Ok(()),
    leave_out: None,
    array_max: 100,
    // Pods are not charged by the hour: they leave when they are not wanted.
    walltime_s: 7 * 24 * super::HOUR_S,
    is_of_pods: true,
    is_single: true,
    in_script: Some(in_manifest),
    is_id: |id| {
        let is_good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        id.starts_with("furlong-") && id.bytes().all(is_good)
    },
    read_ids: |line, _| Some(vec![line.strip_prefix("pod/")?.to_owned()]),
    read,
};

/// Deletes the pods that follow, each within the time that its manifest gives it.
pub const DELETE: [&str; 5] = ["kubectl", "delete", "pods", "--ignore-not-found", "--wait=false"];
/// Deletes the pods and the Secret of the cluster that the label names which follows.
pub const CLEAR: [&str; 6] =
    ["kubectl", "delete", "pods,secrets", "--ignore-not-found", "--wait=false", "-l"];
/// Makes the object on standard input, or changes it.
pub const APPLY: [&str; 7] = [
    "kubectl",
    "apply",
    "--server-side",
    "--force-conflicts",
    "--field-manager=furlong",
    "-f",
    "-",
];
/// Prints what the pod has written that follows.
pub const LOGS: [&str; 4] = ["kubectl", "logs", "--tail=2000", "--limit-bytes=1000000"];
/// Prints the names of the context and of the namespace that `kubectl` would take.
pub const CONTEXT: [&str; 6] = [
    "kubectl",
    "config",
    "view",
    "--minify",
    "-o",
    "jsonpath={.current-context}{\"\\n\"}{.contexts[0].context.namespace}",
];
/// The label of the Secret and of all pods of a cluster.
pub const CLUSTER_LABEL: &str = "furlong-cluster";
/// The label of all that is Furlong's.
const MANAGED: &str = "app.kubernetes.io/managed-by=furlong";
/// The annotation that has the name of a pool's jobs: a label's value is shorter than that may be.
const POOL: &str = "furlong-pool";
/// The file in the Secret.
const FILE: &str = "engine.cap.json";

const IMAGE: &str = "is that the image's name, and may the cluster pull it?";

const MANIFEST: &str = r#"# {{jobs}} of these
apiVersion: v1
kind: Pod
metadata:
  generateName: {{pod}}-
  labels:
    app.kubernetes.io/name: furlong
    app.kubernetes.io/managed-by: furlong
    furlong-cluster: "{{id}}"
  annotations:
    furlong-pool: "{{name}}"
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    karpenter.sh/do-not-disrupt: "true"
spec:
  restartPolicy: Never
  activeDeadlineSeconds: {{deadline_s}}
  terminationGracePeriodSeconds: {{grace_s}}
  automountServiceAccountToken: false
  enableServiceLinks: false
  shareProcessNamespace: true
  securityContext:
    runAsNonRoot: true
    runAsUser: 1000
    runAsGroup: 1000
    fsGroup: 1000
    seccompProfile: {type: RuntimeDefault}
  containers:
  - name: engine
    image: {{image}}
    command: ["/bin/sh", "-c"]
    args: [{{engine}}]
    env:
    - {name: FURLONG_POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: FURLONG_HOME, value: /tmp/furlong}
    - {name: HOME, value: /tmp}
    - {name: NSLOTS, value: "{{cores}}"}
    resources:
      requests:
        cpu: {{cores}}
        memory: {{memory_mb}}Mi
      limits: {memory: {{memory_mb}}Mi}
    securityContext:
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
    volumeMounts:
    - {name: capability, mountPath: /run/furlong, readOnly: true}
    - {name: tmp, mountPath: /tmp}
  volumes:
  - {name: capability, secret: {secretName: "furlong-{{id}}", defaultMode: 288}}
  - {name: tmp, emptyDir: {}}
"#;

/// The place of the capability in a pod.
pub const CAPABILITY: &str = "/run/furlong/engine.cap.json";

/// The manifest of a cluster's Secret, with this capability.
pub fn secret(id: &str, capability: &str) -> String {
    let secret = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": format!("furlong-{id}"),
            "labels": { "app.kubernetes.io/managed-by": "furlong", CLUSTER_LABEL: id },
        },
        "type": "Opaque",
        "stringData": { FILE: capability },
    });
    format!("{secret:#}\n")
}

/// The label of a cluster, by the name of a pool's jobs, `furlong-NAME-ID-POOL`.
pub fn id_of_job(job_name: &str, pool: &str) -> String {
    id_of(job_name.strip_suffix(pool).unwrap_or(job_name))
}

/// The same by the beginning of those names, `furlong-NAME-ID-`.
pub fn id_of(prefix: &str) -> String {
    let id = prefix.trim_end_matches('-').rsplit('-').next().unwrap_or_default();
    id.to_lowercase()
}

/// The beginning of the names of a pool's pods: a part of a host's name.
pub fn pod_name(id: &str, pool: &str) -> String {
    let pool = pool.to_lowercase().replace('_', "-");
    format!("furlong-{id}-{}", pool.trim_end_matches('-'))
}

/// A shell's text in a manifest, in which Kubernetes itself would fill in `$(NAME)`.
fn in_manifest(text: &str) -> String {
    serde_json::Value::from(text.replace('$', "$$")).to_string()
}

/// The flags that say where the pods are, each with its value behind `=`. Others would be for one
/// command, and wrong for the next.
fn check_args(args: &[String]) -> Result<(), String> {
    const PLACES: [&str; 12] = [
        "--namespace",
        "--context",
        "--cluster",
        "--user",
        "--kubeconfig",
        "--server",
        "--as",
        "--as-group",
        "--request-timeout",
        "--cache-dir",
        "--certificate-authority",
        "--tls-server-name",
    ];
    let is_good = |arg: &&String| {
        arg.split_once('=').is_some_and(|(flag, value)| PLACES.contains(&flag) && !value.is_empty())
    };
    match args.iter().find(|arg| !is_good(arg)) {
        None => Ok(()),
        Some(wrong) => Err(format!(
            "leave `{wrong}` out of the arguments for `kubectl`: behind `--` stands where the pods \
             are, as --namespace=NAME or --context=NAME; the rest is in the manifest, which \
             `furlong pool template k8s` prints for --template"
        )),
    }
}

/// An answer of `kubectl get pods`.
#[derive(Deserialize)]
struct Answer {
    items: Vec<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    reason: String,
    message: String,
    conditions: Vec<Condition>,
    container_statuses: Vec<Container>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Container {
    state: State,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct State {
    waiting: Option<Why>,
    terminated: Option<Why>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Why {
    reason: String,
    message: String,
}

impl Why {
    fn words(reason: &str, message: &str) -> String {
        let (reason, message) = (shortened(reason), shortened(message));
        match (reason.is_empty(), message.is_empty()) {
            (_, true) => reason,
            (true, _) => message,
            (false, false) => format!("{reason}: {message}"),
        }
    }
}

/// The reasons for which a pod waits that do not go by themselves. `ErrImagePull` is what the first
/// attempt says, and others follow.
const HOPELESS: [&str; 6] = [
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

fn read(system: &System, text: &str) -> Result<NamedJobs, String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    // A wrapper may say something before it.
    let begins = if text.starts_with('{') { Some(0) } else { text.find("\n{").map(|at| at + 1) };
    let answer = begins.and_then(|at| {
        serde_json::Deserializer::from_str(&text[at..]).into_iter::<Answer>().next()?.ok()
    });
    let answer = answer.ok_or_else(|| system.unknown(first))?;
    Ok(answer.items.into_iter().map(|pod| pod.listed(system)).collect())
}

impl Pod {
    fn listed(self, system: &System) -> (Listed, String) {
        let status = &self.status;
        let container = status.container_statuses.first().map(|it| &it.state);
        let waiting = container.and_then(|state| state.waiting.as_ref());
        let ended = container.and_then(|state| state.terminated.as_ref());
        let has_condition = |condition: &&Condition| {
            let is_reason = match condition.r#type.as_str() {
                "DisruptionTarget" => condition.status == "True",
                "PodScheduled" => condition.status == "False",
                _ => false,
            };
            is_reason && !condition.reason.is_empty()
        };
        let condition = status.conditions.iter().find(has_condition);
        let state = match (system.state(&status.phase), waiting) {
            (JobState::Ended(End::Failed), _) => {
                let target = condition.filter(|it| it.r#type == "DisruptionTarget");
                JobState::Ended(end(&status.reason, target.map(|it| it.reason.as_str())))
            }
            (JobState::Pending, Some(why)) if HOPELESS.contains(&why.reason.as_str()) => {
                JobState::Ended(End::Failed)
            }
            (state, _) => state,
        };
        let why = match state {
            JobState::Running | JobState::Ended(End::Completed) => String::new(),
            _ => {
                let of_pod = (!status.reason.is_empty())
                    .then(|| Why::words(&status.reason, &status.message));
                let of_container = waiting.or(ended).map(|it| Why::words(&it.reason, &it.message));
                let of_condition = condition.map(|it| Why::words(&it.reason, &it.message));
                let why = of_pod.or(of_container).or(of_condition).unwrap_or_default();
                system.reason(&why)
            }
        };
        let node = shortened(&self.spec.node_name);
        let id = JobId(self.metadata.name);
        let name = self.metadata.annotations.get(POOL).cloned().unwrap_or_default();
        (Listed { id, state, node, why, left: String::new() }, name)
    }
}

/// The end of a pod that failed, by its own reason and by that of a disruption.
fn end(reason: &str, disruption: Option<&str>) -> End {
    match (reason, disruption) {
        ("DeadlineExceeded", _) => End::TimeLimit,
        ("NodeLost", _) | (_, Some("DeletionByPodGC" | "DeletionByTaintManager")) => {
            End::NodeFailed
        }
        ("Evicted" | "Preempting" | "NodeShutdown" | "Terminated" | "Shutdown", _)
        | (_, Some(_)) => End::Preempted,
        _ => End::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Refusal;

    fn list(items: &str) -> String {
        format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{items}]}}\n")
    }

    fn pod(name: &str, node: &str, status: &str) -> String {
        format!(
            "{{\"metadata\": {{\"name\": \"{name}\", \"annotations\": {{\"furlong-pool\": \"p\"}}}}, \
             \"spec\": {{\"nodeName\": \"{node}\"}}, \"status\": {status}}}"
        )
    }

    /// The state and the reason of a pod with this status.
    fn state(status: &str) -> (JobState, String) {
        let text = list(&pod("furlong-1-a", "n1", status));
        let (job, name) = KUBERNETES.read_list(&text).unwrap().remove(0);
        assert_eq!((job.node.as_str(), name.as_str()), ("n1", "p"));
        (job.state, job.why)
    }

    #[test]
    fn pods_are_read_with_their_states_and_reasons() {
        let is = |status: &str, expected: JobState, why: &str| {
            let (found, said) = state(status);
            assert_eq!(found, expected, "{status}");
            assert!(said.starts_with(why) && said.is_empty() == why.is_empty(), "{said}");
        };
        let ended = JobState::Ended;
        is("{\"phase\": \"Running\"}", JobState::Running, "");
        is("{\"phase\": \"Succeeded\"}", ended(End::Completed), "");
        is("{\"phase\": \"Unknown\"}", JobState::Running, "");
        is("{\"phase\": \"Pending\"}", JobState::Pending, "");
        is(
            "{\"phase\": \"Pending\", \"conditions\": [{\"type\": \"PodScheduled\", \"status\": \
             \"False\", \"reason\": \"Unschedulable\", \"message\": \"0/3 nodes are available: 3 \
             Insufficient cpu.\"}]}",
            JobState::Pending,
            "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu.: no node has that much",
        );
        let waits = |reason: &str| {
            format!(
                "{{\"phase\": \"Pending\", \"conditions\": [{{\"type\": \"PodScheduled\", \
                 \"status\": \"True\"}}], \"containerStatuses\": [{{\"state\": {{\"waiting\": \
                 {{\"reason\": \"{reason}\", \"message\": \"no\\u001b[2J\\nimage\"}}}}}}]}}"
            )
        };
        is(&waits("ContainerCreating"), JobState::Pending, "ContainerCreating: no[2Jimage");
        is(&waits("ErrImagePull"), JobState::Pending, "ErrImagePull: ");
        is(&waits("ImagePullBackOff"), ended(End::Failed), "ImagePullBackOff: no[2Jimage: is that");
        is(&waits("CreateContainerConfigError"), ended(End::Failed), "CreateContainerConfigError");
        is(
            "{\"phase\": \"Failed\", \"containerStatuses\": [{\"state\": {\"terminated\": \
             {\"reason\": \"OOMKilled\", \"exitCode\": 137}}}]}",
            ended(End::Failed),
            "OOMKilled",
        );
        is(
            "{\"phase\": \"Failed\", \"reason\": \"DeadlineExceeded\"}",
            ended(End::TimeLimit),
            "DeadlineExceeded",
        );
        is("{\"phase\": \"Failed\", \"reason\": \"Evicted\"}", ended(End::Preempted), "Evicted");
        let disrupted = |reason: &str| {
            format!(
                "{{\"phase\": \"Failed\", \"conditions\": [{{\"type\": \"DisruptionTarget\", \
                 \"status\": \"True\", \"reason\": \"{reason}\"}}]}}"
            )
        };
        let preempted = "PreemptionByScheduler";
        is(&disrupted(preempted), ended(End::Preempted), preempted);
        is(&disrupted("DeletionByPodGC"), ended(End::NodeFailed), "DeletionByPodGC");
    }

    #[test]
    fn what_is_no_list_is_none() {
        let whole = list(&pod("furlong-1-a", "n1", "{\"phase\": \"Running\"}"));
        assert_eq!(KUBERNETES.read_list(&format!("Welcome!\n{whole}")).unwrap().len(), 1);
        assert_eq!(KUBERNETES.read_list(&list("")), Ok(Vec::new()));
        let cut = &whole[..whole.len() - 8];
        let wrong = ["--all", "furlong-1/../x", "furlong-1;x", "furlong-A", "other"];
        let wrong = wrong.map(|name| list(&pod(name, "", "{}")));
        let texts = ["", "hello", "{}", cut, "{\"items\": 3}", "{\"items\": [{}]}"];
        for garbage in texts.into_iter().chain(wrong.iter().map(String::as_str)) {
            let error = KUBERNETES.read_list(garbage).unwrap_err();
            assert!(error.starts_with("kubectl answers what nobody understands"), "{error}");
        }
    }

    #[test]
    fn a_submit_gives_one_pod() {
        let ids = |text: &str| KUBERNETES.read_submit(text, 1).map(|ids| ids[0].0.clone());
        assert_eq!(ids("Hello\npod/furlong-1-k8s-x7k2p\n"), Ok("furlong-1-k8s-x7k2p".to_owned()));
        for garbage in ["", "7", "pod/", "pod/-f", "pod/furlong-1 x", "secret/furlong-1"] {
            assert!(matches!(ids(garbage), Err(Refusal::Unclear(_))), "{garbage}");
        }
    }

    #[test]
    fn quota_is_waited_for_and_missing_rights_are_not() {
        let quota = "Error from server (Forbidden): error when creating \"STDIN\": pods \
                     \"furlong-1-k8s-x\" is forbidden: exceeded quota: small, requested: pods=1, \
                     used: pods=2, limited: pods=2\n";
        let said = KUBERNETES.refusal(quota);
        assert!(matches!(&said, Refusal::Full(text) if text.contains("exceeded quota: small")));
        let rights = "Error from server (Forbidden): error when creating \"STDIN\": pods is \
                      forbidden: User \"me\" cannot create resource \"pods\" in API group\n";
        let said = KUBERNETES.refusal(rights);
        let Refusal::Forbidden(text) = &said else { panic!("{said:?}") };
        assert!(text.starts_with("kubectl fails: pods is forbidden: User"), "{text}");
        assert!(text.ends_with("the guide's page on Kubernetes"), "{text}");
        let other = KUBERNETES.refusal("error: no route to host\n");
        assert!(matches!(other, Refusal::Refused(_)), "{other:?}");
    }

    #[test]
    fn only_flags_that_say_where_the_pods_are_are_taken() {
        let check = |args: &[&str]| {
            check_args(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(check(&["--namespace=team", "--context=big"]), Ok(()));
        for wrong in ["-n", "team", "--all", "--dry-run=client", "--namespace", "--namespace="] {
            assert!(check(&[wrong]).unwrap_err().starts_with("leave `"), "{wrong}");
        }
    }

    #[test]
    fn names_of_pods_are_parts_of_names_of_hosts() {
        assert_eq!(id_of("furlong-my-cluster-f0f733b3-"), "f0f733b3");
        assert_eq!(id_of("furlong-default-NEW-"), "new");
        assert_eq!(pod_name("f0f733b3", "GPU_2-"), "furlong-f0f733b3-gpu-2");
    }

    #[test]
    fn a_text_of_a_shell_is_the_same_behind_kubernetes() {
        assert_eq!(in_manifest("a \"$X\" $(b)\n"), r#""a \"$$X\" $$(b)\n""#);
    }
}
