# sealserve-model-server under Gramine. Only the parts of TensorFlow that the server opens remain: library and messages.
# `sealserve image build` creates the build context: package/ (sealserve), requirements.txt, wheels/ (checked by hash).
ARG BASE=gramineproject/gramine:1.9-noble

FROM ${BASE} AS environment
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends binutils python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY wheels/ /build/wheels/
COPY requirements.txt /build/
# pip uses no index: it installs only the wheels here, each with its locked hash. The environment itself has no pip.
RUN python3 -m venv --without-pip /opt/sealserve \
 && python3 -m venv /build/installer \
 && /build/installer/bin/pip --python /opt/sealserve/bin/python --no-cache-dir --disable-pip-version-check install \
        --no-index --find-links /build/wheels --require-hashes --no-deps --no-compile --requirement /build/requirements.txt
COPY package/ /build/package/
RUN cp -R /build/package/. "$(/opt/sealserve/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/" \
 && cd "$(/opt/sealserve/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
 && find tensorflow -type f ! -name "libtensorflow_*.so*" ! -name "*_pb2.py" ! -path tensorflow/__init__.py -delete \
 # Symbols are a quarter of the library. They are never read at run time, but an enclave hashes every byte of the file.
 && find tensorflow -type f -name "libtensorflow_*.so*" -exec strip --strip-unneeded {} + \
 && find . -type d -name tests -prune -exec rm -rf {} + \
 && find tensorflow -type d -empty -delete \
 && /opt/sealserve/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/sealserve/lib

FROM ${BASE}
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
 # -f: the package compiled its bytecode with timestamps, and such bytecode is not measured.
 && python3 -m compileall -q -f --invalidation-mode unchecked-hash "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*.log /var/log/apt
COPY --from=environment /opt/sealserve /opt/sealserve
USER 65532:65532
ENV HOME=/tmp LANG=C.UTF-8 PATH=/opt/sealserve/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ENTRYPOINT ["/opt/sealserve/bin/python", "-m", "sealserve"]
CMD ["enclave", "run", "--directory", "/workspace"]
