{{- define "kaito.selector" -}}
app.kubernetes.io/name: kaito-operator
{{- end -}}
{{- define "kaito.labels" -}}
{{ include "kaito.selector" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- define "kaito.provisioner" -}}
{{- if eq .Values.nodeProvisioner "azure-gpu-provisioner" -}}nodeclaim{{- else -}}{{ .Values.nodeProvisioner }}{{- end -}}
{{- end -}}
{{/* The node class of NodePools: KAITO's karpenterProviders where they have one, else nodeClass. */}}
{{- define "kaito.nodeClass" -}}
{{- $node := .Values.nodeClass -}}
{{- with index .Values.karpenterProviders .Values.karpenterProvider -}}
{{- $provider := . -}}
{{- range .nodeClasses -}}
{{- if .default -}}
{{- $node = printf "%s/%s/%s" ($provider.group | default "karpenter.azure.com") ($provider.kind | default "AKSNodeClass") .name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $node -}}
{{- end -}}
