# The service. The packages are built where a compiler is (requirements/speed.txt has one in C), and copied.
FROM python:3.13 AS packages
COPY requirements/service.txt requirements/speed.txt requirements/
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes \
        -r requirements/service.txt -r requirements/speed.txt

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=packages /venv /venv
WORKDIR /app
COPY . .
# Readable for the service's user whatever the umask of the checkout was; compiled here, since the root file system is
# read-only when it runs. The data folder belongs to that user: a new volume takes its owner over.
RUN chmod -R a+rX . \
 && python -m compileall -q . \
 && useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin marketplace \
 && install -d -o marketplace -g marketplace -m 0700 /var/lib/marketplace
USER 10001:10001
EXPOSE 8000
CMD ["gunicorn"]
