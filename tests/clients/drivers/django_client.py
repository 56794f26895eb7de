"""Django's ORM and migrations over psycopg."""

import os

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
        "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"], "CONN_MAX_AGE": 60,
        "OPTIONS": {"server_side_binding": True}}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"], USE_TZ=True, TIME_ZONE="Europe/Berlin",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DataError, IntegrityError, connection, connections, transaction  # noqa: E402

from check import Checks, at_once, equal  # noqa: E402

checks = Checks()


@checks
def migrations():
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA IF EXISTS django CASCADE")
        cursor.execute("DROP TABLE IF EXISTS django_migrations, django_content_type, auth_user, auth_group, auth_permission, "
                       "auth_group_permissions, auth_user_groups, auth_user_user_permissions CASCADE")
    call_command("migrate", verbosity=0)
    call_command("migrate", verbosity=0)


@checks
def orm_reads_see_their_writes_in_many_threads():
    def one(number):
        try:
            for turn in range(10):
                user = User.objects.create_user(f"user-{number}-{turn}", f"{number}@example.org")
                group, _ = Group.objects.get_or_create(name=f"group-{number}")
                user.groups.add(group)
                equal(User.objects.filter(username__startswith=f"user-{number}-").count(), turn + 1)
                User.objects.filter(pk=user.pk).update(first_name="ö")
                equal(User.objects.prefetch_related("groups").get(pk=user.pk).first_name, "ö")
        finally:
            connections.close_all()
    at_once(one)


@checks
def atomic_blocks_and_savepoints():
    with transaction.atomic():
        User.objects.create(username="outer")
        try:
            with transaction.atomic():
                User.objects.create(username="outer")
            raise AssertionError("no error")
        except IntegrityError as error:
            equal(error.__cause__.sqlstate, "23505")
        equal(User.objects.filter(username="outer").count(), 1)
    try:
        with transaction.atomic():
            User.objects.create(username="never")
            raise RuntimeError
    except RuntimeError:
        equal(User.objects.filter(username="never").exists(), False)


@checks
def select_for_update_and_server_side_iterator():
    with transaction.atomic():
        equal(User.objects.select_for_update().get(username="outer").username, "outer")
    equal(sum(1 for _ in User.objects.order_by("id").iterator(chunk_size=7)), User.objects.count())


@checks
def errors_keep_the_connection():
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT 1/0")
            raise AssertionError("no error")
        except DataError as error:
            equal(error.__cause__.sqlstate, "22012")
        cursor.execute("SHOW TimeZone")
        equal(cursor.fetchone(), ("UTC",))


@checks
def bulk_create():
    Group.objects.bulk_create([Group(name=f"bulk {n}") for n in range(2000)], batch_size=500)
    equal(Group.objects.filter(name__startswith="bulk").count(), 2000)


@checks
def reads_run_on_the_replica():
    def one(_):
        try:
            with connection.cursor() as cursor:
                for number in range(1, 11):
                    cursor.execute("SELECT id FROM replica_reads WHERE id = %s", (number,))
                    equal(cursor.fetchone(), (number,))
        finally:
            connections.close_all()
    at_once(one)


checks.run()
