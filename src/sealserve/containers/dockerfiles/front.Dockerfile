# NGINX: passes TLS through by its server name, and holds no key. The configuration is mounted at /etc/sealserve.
ARG BASE=debian:12.12-slim

FROM ${BASE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nginx-light libnginx-mod-stream \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*.log /var/log/apt /var/www \
        /etc/nginx/sites-enabled /etc/nginx/sites-available
USER 65532:65532
STOPSIGNAL SIGQUIT
ENTRYPOINT ["/usr/sbin/nginx", "-e", "/dev/stderr", "-c", "/etc/sealserve/nginx.conf"]
