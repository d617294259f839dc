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
