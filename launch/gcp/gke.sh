# shellcheck shell=bash
# A JobSet in an existing cluster that has node pools of the accelerator.

# Gets the cluster's credentials into a file of our own, to leave the user's file
# as it is.
gke_enter() {
  export KUBECONFIG=$scratch/kubeconfig
  if [[ -n $dry_run ]]; then quoted export "KUBECONFIG=$KUBECONFIG"; fi
  cloud gcloud container clusters get-credentials "$gke" \
    --location="$zone" ${project:+--project="$project"}
}

gke_create() {
  gke_manifest | write "$scratch/jobset.yaml"
  cloud kubectl apply --filename="$scratch/jobset.yaml"
}

gke_state() {
  local found
  found=$(ask kubectl get jobset "$name" --ignore-not-found --output=name) ||
    return
  if [[ -n $found ]]; then echo running; else echo absent; fi
}

# Makes the JobSet again with new code; it restarts lost pods by itself.
gke_revive() { gke_remove && gke_create; }

gke_remove() {
  # The JobSet goes after its pods, which may save for minutes.
  cloud kubectl delete jobset "$name" --ignore-not-found --wait \
    --cascade=foreground
}

gke_left() {
  ask kubectl get jobset,pods --output=name \
    --selector="scm-jax=$name" --ignore-not-found
}

gke_show() { cloud kubectl get jobset,pods --selector="scm-jax=$name"; }

gke_logs() {
  local index=batch.kubernetes.io/job-completion-index
  cloud kubectl logs --selector="scm-jax=$name,$index=$host" --tail=200 \
    ${follow:+--follow}
}

# Prints the labels of the nodes that have the accelerator.
gke_node_selector() {
  local key=cloud.google.com
  if [[ $family == tpu ]]; then
    echo "$key/gke-tpu-accelerator: $node"
    echo "$key/gke-tpu-topology: $topology"
  else
    echo "$key/gke-accelerator: $node"
  fi
  if [[ -n $spot ]]; then echo "$key/gke-spot: \"true\""; fi
}

# Prints the container's variables. TPU hosts find each other without any.
gke_environment() {
  echo '- {name: PYTHONUNBUFFERED, value: "1"}'
  if [[ $family == tpu ]]; then return; fi
  # GKE puts the driver's libraries there.
  echo '- {name: LD_LIBRARY_PATH, value: /usr/local/nvidia/lib64}'
  if ((hosts == 1)); then return; fi
  cat << YAML
- {name: SCM_COORDINATOR, value: "$name-train-0-0.$name:8476"}
- {name: SCM_NUM_PROCESSES, value: "$hosts"}
- name: SCM_PROCESS_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
YAML
}

indent() { sed "s/^/$(printf "%$1s" '')/"; }

gke_manifest() {
  local chips=nvidia.com/gpu
  if [[ $family == tpu ]]; then chips=google.com/tpu; fi
  cat << YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  labels: {scm-jax: $name}
$(if [[ $family == tpu ]]; then
    echo '  annotations: # all pods on one slice'
    echo '    alpha.jobset.sigs.k8s.io/exclusive-topology:' \
      'cloud.google.com/gke-nodepool'
  fi)
spec:
  # When a pod is lost to preemption or a fault, all pods are replaced and start
  # again from the last checkpoint. Exit code 70 of a pod fails the JobSet.
  failurePolicy:
    maxRestarts: 1000
    rules:
      - {action: FailJobSet, onJobFailureReasons: [PodFailurePolicy]}
  replicatedJobs:
    - name: train
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: train, operator: In, values: [70]}
          template:
            metadata:
              labels: {scm-jax: $name}
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 300
              nodeSelector:
$(gke_node_selector | indent 16)
$(if [[ -n $spot ]]; then
    echo '              tolerations:'
    echo '                - {key: cloud.google.com/gke-spot, operator: Equal,' \
      'value: "true", effect: NoSchedule}'
  fi)
              containers:
                - name: train
                  image: gcr.io/google.com/cloudsdktool/google-cloud-cli:slim
                  command:
                    - bash
                    - -c
                    - |
                      set -e
                      mkdir -p /opt/scm_jax
                      cd /opt/scm_jax
                      gcloud storage cp $(quoted "$uploaded/host.sh" "$uploaded/job.env") .
                      exec bash host.sh
                  env:
$(gke_environment | indent 20)
                  ports: [{containerPort: 8471}, {containerPort: 8476}]
                  resources:
                    limits: {$chips: $per_host}
                  volumeMounts:
                    - {name: shm, mountPath: /dev/shm}
              volumes:
                # NCCL needs more than the default of 64 MiB.
                - {name: shm, emptyDir: {medium: Memory}}
YAML
}
